// Asks whether the page can be shown again, and loads it then. Without this script the browser loads it every 5 seconds.
"use strict";
(() => {
  const look = async () => {
    try {
      const answer = await fetch(window.location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
      if (answer.status !== 503) {
        window.location.reload();
        return;
      }
    } catch {
      // The service itself does not answer: it may be on its way back.
    }
    window.setTimeout(look, 5000);
  };
  window.setTimeout(look, 5000);
})();
