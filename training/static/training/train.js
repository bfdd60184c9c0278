"use strict";
// Shows how long the run in the form will take and what it costs, while the form is being filled.
(() => {
    const PAUSE = 300;
    document.addEventListener("DOMContentLoaded", () => {
        const shown = document.querySelector("[data-expected]");
        if (shown === null) {
            return;
        }
        const form = shown.closest("form");
        let waiting = 0;
        let asked = 0;

        const line = (text, className) => {
            const paragraph = document.createElement("p");
            paragraph.className = className;
            paragraph.textContent = text;
            return paragraph;
        };

        const show = async () => {
            const mine = ++asked;
            const fields = new FormData(form);
            fields.delete("csrfmiddlewaretoken");
            const answer = await fetch(`${shown.dataset.expected}?${new URLSearchParams(fields)}`, {
                credentials: "same-origin",
            });
            if (!answer.ok || answer.redirected || mine !== asked) {
                return;
            }
            const {words, warnings} = await answer.json();
            shown.replaceChildren(
                line(words, "words"),
                ...warnings.map((warning) => line(warning, "warning"))
            );
        };

        form.addEventListener("input", () => {
            clearTimeout(waiting);
            waiting = setTimeout(show, PAUSE);
        });
        show();
    });
})();
