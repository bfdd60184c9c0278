"use strict";
// Draws the months of the page “Costs” from the JSON in <script id="costs-data">.
(() => {
    const source = document.getElementById("costs-data");
    const figure = document.querySelector('figure[data-plot="months"]');
    if (source === null || figure === null) {
        return;
    }
    const {months, series} = JSON.parse(source.textContent);
    const dollars = (value) => `$${value.toLocaleString("en", {maximumFractionDigits: value < 1 ? 4 : 2})}`;
    const month = (value) => months[Math.min(Math.max(Math.floor(value), 0), months.length - 1)];
    const highest = Math.max(...series.flatMap((each) => each.usd));
    window.SentinellePlots.draw(figure, {
        x: {label: "Month", min: 0, max: months.length, format: month, ticks: months.map((_, at) => at + 0.5)},
        y: {label: "US dollars", min: 0, max: highest * 1.05, format: dollars},
        series: series.map((each) => ({
            name: each.name,
            kind: "steps",
            className: each.className,
            points: each.usd.map((usd, at) => ({x: at, until: at + 1, y: usd})),
        })),
    });
})();
