"use strict";
// Draws plots as SVG: axes, lines, steps, points with whiskers, marks; with a legend that hides
// series, values under the pointer or the arrow keys, and the numbers as a table.
//
// SentinellePlots.draw(figure, spec)
//   spec.x, spec.y   {label, min, max, log, format(value), ticks: [values]}; all but label optional
//   spec.series      [{name, kind, className, points: [{x, y, low, high, note}], dashed}]
//                    kind: "line", "steps" (filled, from each x to the next), "points", "whiskers"
//                    the area of a point follows its `weight`, where it has one
//   spec.marks       [{x, label} or {from: [x, y], to: [x, y], label}]: lines for the eye
// A point whose y is null is left out. Drawing again replaces what was drawn.
window.SentinellePlots = (() => {
    const SVG = "http://www.w3.org/2000/svg";
    const HEIGHT = 280;
    const MARGIN = {top: 14, right: 16, bottom: 44, left: 58};

    const node = (name, attributes = {}, text = "") => {
        const made = document.createElementNS(SVG, name);
        for (const [key, value] of Object.entries(attributes)) {
            made.setAttribute(key, value);
        }
        made.textContent = text;
        return made;
    };
    const element = (name, className = "", text = "") => {
        const made = document.createElement(name);
        made.className = className;
        made.textContent = text;
        return made;
    };

    const plain = (value) => {
        if (value === 0) {
            return "0";
        }
        const size = Math.abs(value);
        if (size >= 10000 || size < 0.0001) {
            return value.toExponential(1).replace("e+", "e");
        }
        return String(Number(value.toPrecision(4)));
    };
    const percent = (value) => `${Number((value * 100).toPrecision(3))}\u00a0%`;
    const formatted = (axis, value) => (axis.format ?? plain)(value);

    const shown = (series) => series.points.filter((point) => point.y !== null);

    // --- scales ---

    const range = (axis, values) => {
        const known = axis.log ? values.filter((value) => value > 0) : values;
        const low = axis.min ?? Math.min(...known);
        const high = axis.max ?? Math.max(...known);
        if (low < high) {
            return [low, high];
        }
        // One value, or none because every series is hidden.
        const only = Number.isFinite(low) ? low : 1;
        return axis.log ? [only / 10, only] : [only - 0.5, only + 0.5];
    };
    const step = (span, wanted) => {
        const rough = span / wanted;
        const power = 10 ** Math.floor(Math.log10(rough));
        return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough * 0.999);
    };
    const evenTicks = (low, high, wanted) => {
        const each = step(high - low, wanted);
        const ticks = [];
        for (let at = Math.ceil(low / each - 1e-9); at * each <= high + each * 1e-9; at += 1) {
            ticks.push(Number((at * each).toPrecision(12)));
        }
        return ticks;
    };
    const powers = (low, high) => {
        const ticks = [];
        for (let at = Math.ceil(Math.log10(low)); at <= Math.log10(high) + 1e-9; at += 1) {
            ticks.push(10 ** at);
        }
        return ticks;
    };
    const scale = (axis, values, begin, end, wanted) => {
        const [low, high] = range(axis, values);
        const turn = axis.log ? Math.log10 : (value) => value;
        const place = (value) => {
            const inside = axis.log ? Math.max(value, low) : value;
            return begin + ((turn(inside) - turn(low)) / (turn(high) - turn(low))) * (end - begin);
        };
        const all = axis.ticks ?? (axis.log ? powers(low, high) : evenTicks(low, high, wanted));
        const every = Math.ceil(all.length / (wanted + 1));
        return {place, ticks: all.filter((_, index) => index % every === 0), low, high};
    };

    // --- the drawing ---

    const round = (value) => Math.round(value * 100) / 100;
    const path = (points) =>
        points.map(([x, y], at) => `${at ? "L" : "M"}${round(x)},${round(y)}`).join("");
    const line = (className, [x1, y1], [x2, y2]) =>
        node("line", {class: className, x1: round(x1), y1: round(y1), x2: round(x2), y2: round(y2)});
    const words = (className, x, y, anchor, text) =>
        node("text", {class: className, x: round(x), y: round(y), "text-anchor": anchor}, text);

    // A line that leaves the axes ends there; half its own width more is seen.
    const clipPath = (id, width) => {
        const clip = node("clipPath", {id});
        clip.append(node("rect", {
            x: MARGIN.left - 1, y: MARGIN.top - 1,
            width: width - MARGIN.left - MARGIN.right + 2, height: HEIGHT - MARGIN.top - MARGIN.bottom + 2,
        }));
        return clip;
    };

    const drawAxes = (svg, spec, x, y, width) => {
        const [left, right, bottom] = [MARGIN.left, width - MARGIN.right, HEIGHT - MARGIN.bottom];
        for (const tick of y.ticks) {
            const at = y.place(tick);
            svg.append(line("plot-grid", [left, at], [right, at]));
            svg.append(words("plot-tick", left - 6, at + 4, "end", formatted(spec.y, tick)));
        }
        for (const tick of x.ticks) {
            const at = x.place(tick);
            svg.append(line("plot-grid", [at, MARGIN.top], [at, bottom]));
            svg.append(words("plot-tick", at, bottom + 16, "middle", formatted(spec.x, tick)));
        }
        svg.append(line("plot-axis", [left, bottom], [right, bottom]));
        svg.append(words("plot-label", (left + right) / 2, HEIGHT - 8, "middle", spec.x.label));
        const upwards = words("plot-label", 0, 0, "middle", spec.y.label);
        upwards.setAttribute("transform", `translate(13,${(MARGIN.top + bottom) / 2}) rotate(-90)`);
        svg.append(upwards);
    };

    const drawSeries = (svg, series, x, y, clip) => {
        const group = node("g", {class: `plot-series ${series.className}`, "data-series": series.name});
        const places = shown(series).map((point) => [x.place(point.x), y.place(point.y), point]);
        if (series.kind === "line") {
            group.setAttribute("clip-path", `url(#${clip})`);
            const className = series.dashed ? "plot-line plot-dashed" : "plot-line";
            group.append(node("path", {class: className, d: path(places)}));
        } else if (series.kind === "steps") {
            const base = y.place(y.low);
            const corners = [];
            places.forEach(([left, top, point]) => {
                corners.push([left, top], [x.place(point.until), top]);
            });
            if (corners.length) {
                const closed = [[corners[0][0], base], ...corners, [corners.at(-1)[0], base]];
                group.append(node("path", {class: "plot-area", d: `${path(closed)}Z`}));
                group.append(node("path", {class: "plot-line", d: path(corners)}));
            }
        } else {
            const heaviest = Math.max(...shown(series).map((point) => point.weight ?? 0));
            const radius = ({weight}) => weight === undefined ? 3.5 : 2 + 5 * Math.sqrt(weight / heaviest);
            if (series.kind === "whiskers" && places.length > 1) {
                group.append(node("path", {class: "plot-line plot-thin", d: path(places)}));
            }
            for (const [left, top, point] of places) {
                if (point.low !== undefined && point.low !== null) {
                    const [low, high] = [y.place(point.low), y.place(point.high)];
                    group.append(line("plot-whisker", [left, low], [left, high]));
                }
                const r = round(radius(point));
                group.append(node("circle", {class: "plot-point", cx: round(left), cy: round(top), r}));
            }
        }
        svg.append(group);
    };

    const drawMark = (svg, mark, x, y) => {
        const [from, to] = mark.from
            ? [mark.from, mark.to].map(([left, top]) => [x.place(left), y.place(top)])
            : [[x.place(mark.x), HEIGHT - MARGIN.bottom], [x.place(mark.x), MARGIN.top]];
        svg.append(node("path", {class: "plot-mark", d: path([from, to])}));
        if (!mark.label) {
            return;
        }
        if (mark.from) {
            svg.append(words("plot-mark-label", from[0] + 4, from[1] - 5, "start", mark.label));
            return;
        }
        const onLeft = to[0] > (MARGIN.left + x.place(x.high)) / 2;
        const top = to[1] + 10 + (mark.lower ?? 0) * 13;
        const place = onLeft ? [to[0] - 4, top, "end"] : [to[0] + 4, top, "start"];
        svg.append(words("plot-mark-label", ...place, mark.label));
    };

    // --- values under the pointer ---

    // The one of `all` for which `distance` is smallest; null of none.
    const nearest = (all, distance) => all.reduce(
        (best, each) => (best === null || distance(each) < distance(best) ? each : best), null);

    const describePoint = (spec, point) => {
        let text = formatted(spec.y, point.y);
        if (point.low !== undefined && point.low !== null) {
            text += ` (${formatted(spec.y, point.low)} to ${formatted(spec.y, point.high)})`;
        }
        return point.note ? `${text}, ${point.note}` : text;
    };

    const showValues = (state, value) => {
        const {spec, x, tip, svg, cursor} = state;
        const away = (point) => Math.abs(point.x - value);
        const rows = visible(state)
            .map((series) => [series, nearest(shown(series), away)])
            .filter(([, point]) => point !== null);
        if (!rows.length) {
            return;
        }
        const at = nearest(rows.map(([, point]) => point), away).x;
        tip.replaceChildren(element("strong", "", `${spec.x.label}: ${formatted(spec.x, at)}`));
        for (const [series, point] of rows) {
            const line = element("div", series.className);
            line.append(element("span", "plot-key"), `${series.name}: ${describePoint(spec, point)}`);
            tip.append(line);
        }
        const left = x.place(at);
        cursor.setAttribute("d", path([[left, MARGIN.top], [left, HEIGHT - MARGIN.bottom]]));
        tip.hidden = false;
        const width = svg.getBoundingClientRect().width;
        tip.classList.toggle("plot-tip-left", left > width / 2);
        tip.style.left = left > width / 2 ? "" : `${left + 12}px`;
        tip.style.right = left > width / 2 ? `${width - left + 12}px` : "";
        state.at = at;
    };
    const hideValues = (state) => {
        state.tip.hidden = true;
        state.cursor.setAttribute("d", "");
    };

    const places = (state) => {
        const points = visible(state).flatMap(shown);
        return [...new Set(points.map((point) => point.x))].sort((one, other) => one - other);
    };
    const walk = (state, event) => {
        const direction = {ArrowLeft: -1, ArrowRight: 1}[event.key];
        if (event.key === "Escape") {
            hideValues(state);
        }
        if (!direction) {
            return;
        }
        event.preventDefault();
        const all = places(state);
        const now = state.at === undefined ? -1 : all.findIndex((value) => value >= state.at);
        showValues(state, all[Math.min(Math.max(now + direction, 0), all.length - 1)]);
    };

    // --- legend and table ---

    const visible = (state) => state.spec.series.filter((series) => !state.hidden.has(series.name));

    const legend = (state, redraw) => {
        const list = element("div", "plot-legend");
        for (const series of state.spec.series) {
            const button = element("button", series.className);
            button.type = "button";
            button.setAttribute("aria-pressed", String(!state.hidden.has(series.name)));
            const key = series.dashed ? "plot-key plot-key-dashed" : "plot-key";
            button.append(element("span", key), series.name);
            button.addEventListener("click", () => {
                if (!state.hidden.delete(series.name)) {
                    state.hidden.add(series.name);
                }
                button.setAttribute("aria-pressed", String(!state.hidden.has(series.name)));
                redraw();
            });
            list.append(button);
        }
        return list;
    };

    const table = (spec) => {
        const made = element("table", "report-table");
        const head = made.createTHead().insertRow();
        for (const name of ["", spec.x.label, spec.y.label]) {
            const cell = element("th", "", name);
            cell.scope = "col";
            head.append(cell);
        }
        const body = made.createTBody();
        for (const series of spec.series) {
            for (const point of shown(series)) {
                const row = body.insertRow();
                const name = element("th", "", series.name);
                name.scope = "row";
                row.append(name);
                row.insertCell().textContent = formatted(spec.x, point.x);
                row.insertCell().textContent = describePoint(spec, point);
            }
        }
        return made;
    };
    const numbers = (spec) => {
        const details = element("details", "plot-numbers");
        details.append(element("summary", "", "The numbers"));
        details.addEventListener("toggle", () => {
            if (details.open && details.children.length === 1) {
                const scroll = element("div", "plot-scroll");
                scroll.tabIndex = 0;
                scroll.append(table(spec));
                details.append(scroll);
            }
        });
        return details;
    };

    const paint = (state) => {
        const {spec, frame, svg} = state;
        const width = Math.max(frame.clientWidth, 240);
        const all = visible(state).flatMap(shown);
        svg.replaceChildren();
        svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
        svg.setAttribute("width", width);
        svg.setAttribute("height", HEIGHT);
        const acrosses = all.flatMap((point) => [point.x, point.until ?? point.x]);
        const heights = all.flatMap(({y: at, low, high}) => [at, low ?? at, high ?? at]);
        const wanted = Math.max(3, Math.floor(width / 80));
        const x = scale(spec.x, acrosses, MARGIN.left, width - MARGIN.right, wanted);
        const y = scale(spec.y, heights, HEIGHT - MARGIN.bottom, MARGIN.top, 6);
        Object.assign(state, {x, y});
        const clip = `plot-clip-${state.figure.dataset.plot}`;
        svg.append(clipPath(clip, width));
        drawAxes(svg, spec, x, y, width);
        (spec.marks ?? []).forEach((mark) => drawMark(svg, mark, x, y));
        visible(state).forEach((series) => drawSeries(svg, series, x, y, clip));
        state.cursor = node("path", {class: "plot-cursor", d: ""});
        svg.append(state.cursor);
    };

    const draw = (figure, spec) => {
        const previous = figure.querySelector(".plot");
        const plot = element("div", "plot");
        const frame = element("div", "plot-frame");
        const svg = node("svg", {
            class: "plot-svg",
            role: "img",
            tabindex: "0",
            "aria-label": `${figure.dataset.title}. Arrow keys read its values; a table follows.`,
        });
        const tip = element("div", "plot-tip");
        tip.hidden = true;
        tip.setAttribute("role", "status");
        frame.append(svg, tip);
        const state = {figure, spec, frame, svg, tip, hidden: new Set((spec.hidden ?? []))};
        plot.append(legend(state, () => paint(state)), frame, numbers(spec));
        if (previous === null) {
            figure.append(plot);
        } else {
            previous.replaceWith(plot);
        }
        paint(state);
        const valueAt = (event) => {
            const box = svg.getBoundingClientRect();
            const left = event.clientX - box.left;
            return nearest(places(state), (value) => Math.abs(state.x.place(value) - left));
        };
        svg.addEventListener("pointermove", (event) => showValues(state, valueAt(event)));
        svg.addEventListener("pointerleave", () => hideValues(state));
        svg.addEventListener("blur", () => hideValues(state));
        svg.addEventListener("keydown", (event) => walk(state, event));
        let width = frame.clientWidth;
        new ResizeObserver(() => {
            if (frame.clientWidth !== width) {
                width = frame.clientWidth;
                hideValues(state);
                paint(state);
            }
        }).observe(frame);
    };

    return {draw, percent, plain};
})();
