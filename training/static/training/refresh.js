"use strict";
// Keeps a page current while a run is active: the server renders it, this swaps the parts that
// change. A page asks for it with <div hidden data-refresh="SELECTOR OF THE PARTS">.
(() => {
    const SECONDS = 2;
    const chosen = () => document.querySelector("input.action-select:checked") !== null;
    const rows = (page) =>
        Array.from(page.querySelectorAll("input.action-select"), (box) => box.value).join();

    const swapPart = (part, fresh) => {
        const log = part.querySelector("pre");
        const atEnd = log === null || log.scrollTop + log.clientHeight >= log.scrollHeight - 4;
        const place = log === null ? 0 : log.scrollTop;
        part.replaceWith(fresh);
        const freshLog = fresh.querySelector("pre");
        if (freshLog !== null) {
            freshLog.scrollTop = atEnd ? freshLog.scrollHeight : place;
        }
    };

    const swap = async (selector) => {
        const parts = document.querySelectorAll(selector);
        if (Array.from(parts).some((part) => part.contains(document.activeElement))) {
            return; // someone is using it
        }
        const answer = await fetch(location.href, {credentials: "same-origin"});
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const fresh = page.querySelectorAll(selector);
        const sameRows = fresh.length === parts.length && rows(page) === rows(document);
        const ended = page.querySelector("[data-refresh]") === null;
        if (answer.redirected || ended || !sameRows) {
            // The session has ended, no run is active any more, or there are other rows.
            if (!chosen()) {
                location.reload();
            }
            return;
        }
        parts.forEach((part, index) => swapPart(part, fresh[index]));
    };

    const loop = async () => {
        const wanted = document.querySelector("[data-refresh]");
        if (wanted === null) {
            return;
        }
        if (!document.hidden) {
            try {
                await swap(wanted.dataset.refresh);
            } catch (error) {
                console.warn("The page could not be refreshed, trying again", error);
            }
        }
        setTimeout(loop, SECONDS * 1000);
    };
    document.addEventListener("DOMContentLoaded", () => {
        const log = document.querySelector("pre.run-log");
        if (log !== null) {
            log.scrollTop = log.scrollHeight;
        }
        setTimeout(loop, SECONDS * 1000);
    });
})();
