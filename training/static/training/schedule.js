"use strict";
// Shows the next times of the crontab in the form while it is being written.
(() => {
    const PAUSE = 250;
    document.addEventListener("DOMContentLoaded", () => {
        const shown = document.querySelector("[data-times]");
        if (shown === null) {
            return;
        }
        const fields = ["crontab", "time_zone"].map((name) => document.getElementById(`id_${name}`));
        let waiting = 0;
        let asked = 0;

        const show = async () => {
            const mine = ++asked;
            const query = new URLSearchParams(fields.map((field) => [field.name, field.value]));
            const answer = await fetch(`${shown.dataset.times}?${query}`, {
                credentials: "same-origin",
            });
            if (!answer.ok || answer.redirected || mine !== asked) {
                return;
            }
            const {words, times} = await answer.json();
            shown.querySelector(".words").textContent = words;
            shown.querySelector("ol").replaceChildren(
                ...times.map((time) => {
                    const item = document.createElement("li");
                    item.textContent = time;
                    return item;
                })
            );
        };

        for (const field of fields) {
            field.addEventListener("input", () => {
                clearTimeout(waiting);
                waiting = setTimeout(show, PAUSE);
            });
        }
    });
})();
