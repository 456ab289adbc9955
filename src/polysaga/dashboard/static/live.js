// Keeps a page up to date. The server says which parts have changed; htmx fetches the page and morphs those parts.
// Without this script the page is as of the time that it names, and everything on it works.
"use strict";
(() => {
  const address = document.body.dataset.live;
  if (!address || !window.EventSource || !window.htmx) return;

  const sign = document.getElementById("live");
  const pause = document.getElementById("pause");
  const refresh = document.getElementById("refresh");
  const silent = document.getElementById("silent");
  const wanted = new Set();
  let source = null;
  let mark = document.body.dataset.mark || "";
  let loading = false;
  let again = 0;
  let alarm = 0;

  const say = (state, word, at) => {
    sign.dataset.state = state;
    sign.querySelector(".word").textContent = word;
    if (at) sign.querySelector(".as-of").textContent = `${state === "live" ? "as of " : ""}${at} UTC`;
    refresh.hidden = state === "live";
    pause.hidden = state !== "live";
  };
  const answered = () => {
    window.clearTimeout(alarm);
    alarm = 0;
    silent.hidden = true;
  };
  const lost = (why) => {
    say("paused", why, "");
    // A restart takes a moment: not every failure is worth an alarm.
    if (alarm === 0) alarm = window.setTimeout(() => (silent.hidden = false), 3000);
    const since = sign.querySelector(".as-of");
    since.textContent = since.textContent.replace("as of ", "");
  };

  const rows = () => Array.from(document.querySelectorAll("tr[id^='saga-']"), (row) => row.id.slice(5));

  // What a person is at work on is left alone: a form with something typed, or with the focus in it.
  const inHands = (part) =>
    part.hasAttribute("data-hands") &&
    (part.contains(document.activeElement) ||
      Array.from(part.querySelectorAll("textarea")).some((field) => field.value.trim() !== ""));

  const load = async () => {
    if (loading || wanted.size === 0) return;
    loading = true;
    const ids = Array.from(wanted).filter((id) => {
      const part = document.getElementById(id);
      return part !== null && !inHands(part);
    });
    wanted.clear();
    try {
      if (ids.length > 0) {
        const page = new URL(window.location.href);
        const listed = rows();
        if (listed.length > 0) page.searchParams.set("shown", listed.join(","));
        page.searchParams.delete("done");
        await window.htmx.ajax("GET", page.pathname + page.search, {
          source: document.body,
          target: document.body,
          swap: "none",
          selectOOB: ids.map((id) => `#${CSS.escape(id)}:outerMorph`).join(","),
        });
        for (const row of ids.filter((id) => id.startsWith("saga-")).map((id) => document.getElementById(id))) {
          if (row === null) continue;
          row.dataset.changed = "";
          window.setTimeout(() => delete row.dataset.changed, 2000);
        }
      }
    } finally {
      loading = false;
    }
    if (wanted.size > 0) load();
  };

  const close = () => {
    window.clearTimeout(again);
    if (source !== null) source.close();
    source = null;
  };

  const open = () => {
    close();
    const stream = new URL(address, window.location.href);
    const listed = rows();
    if (listed.length > 0) stream.searchParams.set("shown", listed.join(","));
    if (mark) stream.searchParams.set("mark", mark);
    source = new EventSource(stream);
    const heard = (event) => {
      const told = JSON.parse(event.data);
      if (told.mark) mark = told.mark;
      answered();
      say("live", "Live", told.at);
      for (const id of told.ids || []) wanted.add(id);
      load();
    };
    source.addEventListener("seen", heard);
    source.addEventListener("changed", heard);
    source.addEventListener("down", (event) => {
      answered();
      say("paused", "The journal does not answer,", JSON.parse(event.data).at);
    });
    source.addEventListener("again", open); // this stream has lasted long enough; the next one goes on from the mark
    source.addEventListener("gone", () => {
      close();
      window.location.reload();
    });
    source.onerror = () => {
      lost("Not live since");
      // A browser gives up after a refusal; the server may be on its way back.
      if (source !== null && source.readyState === EventSource.CLOSED) again = window.setTimeout(open, 5000);
    };
  };

  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", (event) => event.persisted && open());
  if (!document.hidden) open();
})();
