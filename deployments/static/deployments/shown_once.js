"use strict";
window.history.replaceState(null, "", document.currentScript.dataset.address);
