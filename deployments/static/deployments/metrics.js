"use strict";
// Draws how a service is doing into <section data-metrics="ADDRESS">, which asks for it when the
// page is there and when another time is chosen.
(() => {
    const section = document.querySelector("[data-metrics]");
    if (section === null) {
        return;
    }
    const {draw, percent, plain} = window.SentinellePlots;
    const said = section.querySelector("[data-said]");
    const buttons = section.querySelectorAll("button[data-hours]");
    const COLOURS = ["series-risk", "series-supervised", "series-unsupervised"];
    const UNITS = {
        number: {min: 0, format: plain},
        ms: {min: 0, format: (value) => `${plain(value)}\u00a0ms`},
        share: {min: 0, max: 1, format: percent},
    };

    const two = (number) => String(number).padStart(2, "0");
    const moment = (hours) => (seconds) => {
        const at = new Date(seconds * 1000);
        const time = `${two(at.getUTCHours())}:${two(at.getUTCMinutes())}`;
        const day = `${two(at.getUTCMonth() + 1)}-${two(at.getUTCDate())}`;
        return hours > 24 ? `${day} ${time}` : time;
    };
    const ticks = (times) => {
        const every = Math.max(1, Math.floor(times.length / 6));
        return times.filter((_, at) => at % every === 0);
    };
    const spec = (plot, times, hours) => {
        const values = plot.series.flatMap((each) => each.values).filter((value) => value !== null);
        const highest = Math.max(...values, 0);
        const unit = UNITS[plot.unit];
        return {
            x: {
                label: "Time, UTC", min: times[0], max: times[times.length - 1],
                format: moment(hours), ticks: ticks(times),
            },
            // A share is read against its own size: errors of 1 % are not a flat line.
            y: {...unit, label: plot.title, max: highest > 0 ? highest * 1.1 : 1},
            series: plot.series.map((each, at) => ({
                name: each.name,
                kind: "line",
                className: COLOURS[at],
                points: each.values.map((value, index) => ({x: times[index], y: value})),
            })),
        };
    };

    const show = (found, hours) => {
        said.textContent = found.error ?? found.summary;
        said.classList.toggle("warning", found.error !== undefined);
        for (const figure of section.querySelectorAll("figure")) {
            const plot = (found.plots ?? []).find((each) => each.key === figure.dataset.plot);
            figure.hidden = plot === undefined || found.is_empty;
            if (!figure.hidden) {
                draw(figure, spec(plot, found.times, hours));
            }
        }
    };

    let asked = 0;
    const ask = async (hours) => {
        asked += 1;
        const mine = asked;
        buttons.forEach((each) => each.setAttribute("aria-pressed", String(each.dataset.hours === hours)));
        said.textContent = "Google is asked…";
        said.classList.remove("warning");
        let found;
        try {
            const answer = await fetch(`${section.dataset.metrics}?hours=${hours}`, {
                credentials: "same-origin", signal: AbortSignal.timeout(30000),
            });
            found = await answer.json();
        } catch {
            found = {error: "The metrics could not be read. Load the page again later."};
        }
        if (mine === asked) {
            show(found, Number(hours));
        }
    };
    buttons.forEach((each) => each.addEventListener("click", () => ask(each.dataset.hours)));
    ask(buttons[0].dataset.hours);
})();
