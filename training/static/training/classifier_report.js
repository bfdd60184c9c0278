"use strict";
// Draws the plot of a classifier's report from the JSON in <script id="classifier-report-data">.
(() => {
    const {draw, percent} = window.SentinellePlots;
    const RATE = {min: 0, max: 1, format: percent};

    const reliability = (bins) => ({
        x: {...RATE, label: "Mean confidence"},
        y: {...RATE, label: "Share that is right"},
        series: [{
            name: "Rows of similar confidence",
            kind: "whiskers",
            className: "series-risk",
            points: bins.map((bin) => ({
                x: bin.mean_confidence,
                y: bin.accuracy,
                low: bin.interval && bin.interval[0],
                high: bin.interval && bin.interval[1],
                weight: bin.rows,
                note: `${bin.rows.toLocaleString("en")} rows`,
            })),
        }],
        marks: [{from: [0, 0], to: [1, 1], label: ""}],
    });

    document.addEventListener("DOMContentLoaded", () => {
        const embedded = document.getElementById("classifier-report-data");
        const figure = document.querySelector('figure[data-plot="classifier-reliability"]');
        if (embedded !== null && figure !== null) {
            draw(figure, reliability(JSON.parse(embedded.textContent).reliability));
        }
    });
})();
