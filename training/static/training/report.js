"use strict";
// Draws the plots of a training report from the JSON in <script id="report-data">.
(() => {
    const {draw, percent, plain} = window.SentinellePlots;
    const RATE = {min: 0, max: 1, format: percent};

    const entries = (names, made) => Object.entries(names).filter(([key]) => key in made);
    const scoreSeries = (data, points) => entries(data.names, data.curves.scores).map(([key, name]) => ({
        name,
        kind: "line",
        className: `series-${key}`,
        dashed: !["risk", "supervised", "unsupervised"].includes(key),
        points: points(data.curves.scores[key]),
    }));
    const thresholdMarks = (data) => [
        {x: data.thresholds.review, label: `REVIEW from ${plain(data.thresholds.review)}`},
        {x: data.thresholds.block, label: `BLOCK from ${plain(data.thresholds.block)}`, lower: 1},
    ];

    const precisionRecall = (data) => ({
        x: {...RATE, label: "Recall: share of the frauds found"},
        y: {...RATE, label: "Precision"},
        series: scoreSeries(data, (curve) => curve.recall.map((recall, at) => ({
            x: recall, y: curve.precision[at], note: `from a score of ${plain(curve.threshold[at])}`,
        }))),
        marks: [{from: [0, data.fraud_rate], to: [1, data.fraud_rate], label: ""}],
    });

    const roc = (data) => ({
        x: {...RATE, label: "Legitimate transactions alerted on"},
        y: {...RATE, label: "Recall"},
        series: scoreSeries(data, (curve) => [
            {x: 0, y: 0},
            ...curve.false_positive_rate.map((rate, at) => ({x: rate, y: curve.recall[at]})),
            {x: 1, y: 1},
        ]),
        marks: [{from: [0, 0], to: [1, 1], label: ""}],
    });

    const steps = (histogram, counts) => {
        const total = counts.reduce((sum, count) => sum + count, 0);
        return counts.map((count, at) => ({
            x: histogram.edges[at],
            until: histogram.edges[at + 1],
            y: count / total,
            note: `${count.toLocaleString("en")} of ${total.toLocaleString("en")}`,
        }));
    };
    const distribution = (data, score) => {
        const histogram = data.curves.histograms[score];
        return {
            x: {min: 0, max: 1, label: `${data.names[score]}: score`},
            y: {log: true, max: 1, format: percent, label: "Share of the class"},
            series: [
                ["Legitimate", "legitimate"],
                ["Fraud", "fraud"],
            ].map(([name, key]) => ({
                name,
                kind: "steps",
                className: `series-${key}`,
                points: steps(histogram, histogram[key]),
            })),
            marks: score === "risk" ? thresholdMarks(data) : [],
        };
    };

    const reliability = (data) => ({
        x: {...RATE, label: "Mean risk"},
        y: {...RATE, label: "Share of frauds"},
        series: [{
            name: "Rows of similar risk",
            kind: "whiskers",
            className: "series-risk",
            points: data.curves.reliability.map((bin) => ({
                x: bin.mean_risk,
                y: bin.fraud_rate,
                low: bin.interval && bin.interval[0],
                high: bin.interval && bin.interval[1],
                note: `${bin.rows.toLocaleString("en")} rows with a risk of ${bin.from} to ${bin.to}`,
            })),
        }],
        marks: [{from: [0, 0], to: [1, 1], label: ""}],
    });

    const cost = (data, costs) => {
        const curve = data.curves.cost;
        const line = (name, className, price, counts) => ({
            name: `${name} all from here on`,
            kind: "line",
            className: `series-${className}`,
            points: curve.threshold.map((threshold, at) => ({
                x: threshold,
                y: curve.missed_per_1000[at] + price * counts[at],
                note: `${plain(counts[at])} per 1,000`,
            })),
        });
        const everything = data.approve_all_cost_per_1000;
        return {
            x: {min: 0, max: 1, label: "Threshold on the risk"},
            y: {min: 0, max: everything > 0 ? 1.6 * everything : 1, label: "Cost per 1,000 transactions"},
            series: [
                line("Reviewing", "risk", costs.review, curve.alerts_per_1000),
                line("Blocking", "fraud", costs.block_legitimate, curve.false_alerts_per_1000),
            ],
            marks: [
                {from: [0, everything], to: [1, everything], label: "approving everything"},
                ...thresholdMarks(data),
            ],
        };
    };

    const day = (time) => new Date(time).toISOString().slice(0, 10);
    const weekly = (data) => {
        const weeks = data.curves.weeks.map((week) => ({...week, time: Date.parse(week.week)}));
        const series = (name, className, decision) => ({
            name,
            kind: "whiskers",
            className,
            points: weeks.map((week) => {
                const interval = week.intervals[decision].recall;
                return {
                    x: week.time,
                    y: week[decision].recall,
                    low: interval && interval[0],
                    high: interval && interval[1],
                    note: `${week.frauds.toLocaleString("en")} frauds`,
                };
            }),
        });
        const days = 3 * 86400000;
        return {
            x: {
                label: "Week from Monday",
                min: weeks[0].time - days,
                max: weeks.at(-1).time + days,
                ticks: weeks.map((week) => week.time),
                format: day,
            },
            y: {...RATE, label: "Recall"},
            series: [
                series("Reviewed or blocked", "series-risk", "review"),
                series("Blocked", "series-fraud", "block"),
            ],
        };
    };

    const learning = (data) => ({
        x: {label: "Trees"},
        y: {min: 0, label: "Average precision on validation"},
        series: [{
            name: "Supervised model",
            kind: "line",
            className: "series-supervised",
            points: data.learning_curve.map((score, trees) => ({x: trees, y: score})),
        }],
    });

    const SPECS = {
        "precision-recall": precisionRecall,
        roc,
        reliability,
        weeks: weekly,
        learning,
    };

    const drawDistribution = (figure, data) => {
        const choice = figure.querySelector("select");
        choice.addEventListener("change", () => draw(figure, distribution(data, choice.value)));
        draw(figure, distribution(data, choice.value));
    };
    const drawCost = (figure, data) => {
        const inputs = [...figure.querySelectorAll("input")];
        const redraw = () => draw(figure, cost(data, Object.fromEntries(
            inputs.map((input) => [input.name, Math.max(Number(input.value) || 0, 0)]))));
        inputs.forEach((input) => input.addEventListener("input", redraw));
        redraw();
    };

    document.addEventListener("DOMContentLoaded", () => {
        const embedded = document.getElementById("report-data");
        if (embedded === null) {
            return;
        }
        const data = JSON.parse(embedded.textContent);
        for (const figure of document.querySelectorAll("figure[data-plot]")) {
            const name = figure.dataset.plot;
            if (name === "distribution") {
                drawDistribution(figure, data);
            } else if (name === "cost") {
                drawCost(figure, data);
            } else {
                draw(figure, SPECS[name](data));
            }
        }
    });
})();
