"use strict";
// Of a form with a model, shows what that model's kind has, its data sets and its next version.
(() => {
    document.addEventListener("DOMContentLoaded", () => {
        const model = document.querySelector("select[data-kinds]");
        if (model === null) {
            return;
        }
        const form = model.closest("form");
        const kinds = JSON.parse(model.dataset.kinds);
        const dataset = form.querySelector("select[data-models]");
        const owners = JSON.parse(dataset.dataset.models);
        const version = form.querySelector("[data-versions]");
        const versions = version === null ? {} : JSON.parse(version.dataset.versions);

        // What is hidden is not sent: the kind does not have it.
        const showFields = (kind) => {
            for (const field of form.querySelectorAll("[data-only-of]")) {
                const other = field.dataset.onlyOf !== kind;
                field.disabled = other;
                field.closest(".form-row").hidden = other;
            }
            for (const group of form.querySelectorAll("fieldset.module")) {
                const rows = [...group.querySelectorAll(".form-row")];
                group.hidden = rows.length > 0 && rows.every((row) => row.hidden);
            }
        };

        const showData = (kind) => {
            const owner = kind === "classifier" ? model.value : "";
            for (const option of dataset.options) {
                const other = option.value !== "" && (owners[option.value] ?? "") !== owner;
                option.hidden = option.disabled = other;
                if (other && option.selected) {
                    dataset.value = "";
                }
            }
        };

        const suggestVersion = () => {
            if (version !== null && Object.values(versions).includes(version.value)) {
                version.value = versions[model.value] ?? version.value;
            }
        };

        const show = () => {
            const kind = kinds[model.value] ?? "fraud";
            showFields(kind);
            showData(kind);
        };
        model.addEventListener("change", () => {
            suggestVersion();
            show();
        });
        show();
    });
})();
