/* What a server cannot do for a page: let clocks run, say whether the stream lives, and open a form above what is seen.
   Nothing is decided here, and no text is made but times and numbers. */
(() => {
  "use strict";
  const words = JSON.parse(document.body.dataset.words);
  const language = document.documentElement.lang;
  const $ = (selector, inside = document) => inside.querySelector(selector);
  const all = (selector, inside = document) => inside.querySelectorAll(selector);
  const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);

  /* ---- time: by the server's clock. The browser's own may be wrong by hours; only how fast it runs is believed. ---- */
  const heard = [Number($('meta[name="gate-now"]').content) - Date.now()];
  const now = () => Date.now() + Math.max(...heard); // what comes late makes it smaller, never larger
  const hear = (serverNow) => {
    heard.push(serverNow - Date.now());
    if (heard.length > 8) heard.shift();
  };

  const number = new Intl.NumberFormat(language);
  const clock = new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  const minute = new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  const day = new Intl.DateTimeFormat(language, { day: "numeric", month: "short" });
  const dayOfYear = new Intl.DateTimeFormat(language, { day: "numeric", month: "short", year: "numeric" });
  const whole = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "long" });

  const lasting = (ms) => {
    const s = Math.max(0, Math.floor(ms / 1000));
    const parts = [["days", Math.floor(s / 86400)], ["hours", Math.floor(s / 3600) % 24], ["minutes", Math.floor(s / 60) % 60], ["seconds", s % 60]];
    let first = parts.findIndex(([, n]) => n > 0);
    if (first < 0) first = 3;
    return parts.slice(first, first + 2).filter(([, n], i) => n > 0 || i === 0).map(([unit, n]) => fill(words[unit], { n: number.format(n) })).join(" ");
  };
  const about = (ms) => {
    if (ms < 3000) return words.now;
    const rounded = ms < 60_000 ? Math.ceil(ms / 5000) * 5000 : ms < 120_000 ? Math.round(ms / 30_000) * 30_000 : Math.round(ms / 60_000) * 60_000;
    return fill(words.about, { time: lasting(rounded) });
  };
  const dated = (ms) => {
    const far = Math.abs(now() - ms) > 300 * 86_400_000;
    const date = far ? dayOfYear.format(ms) : day.format(ms).replaceAll(" ", "\u00a0"); // a narrow cell breaks it before the time
    return `${date} ${minute.format(ms)}`;
  };
  const shown = {
    at: (ms) => (Math.abs(now() - ms) < 43_200_000 ? clock.format(ms) : dated(ms)),
    since: (ms) => lasting(now() - ms),
    until: (ms) => (ms <= now() ? words.over : lasting(ms - now())),
    about: (ms) => about(ms - now()),
  };
  window.gateShown = { lasting, number };

  const put = (element, text) => {
    if (element.textContent !== text) element.textContent = text;
  };
  const tick = () => {
    for (const time of all("time[data-as]")) {
      const ms = Date.parse(time.dateTime);
      put(time, shown[time.dataset.as](ms));
      if (time.dataset.for !== time.dateTime) {
        time.dataset.for = time.dateTime;
        time.title = `${whole.format(ms)}\n${time.dateTime}`;
      }
    }
    for (const ring of all("circle[data-until]")) {
      const left = Math.max(0, Math.min(1, (ring.dataset.until - now()) / ring.dataset.whole));
      ring.setAttribute("stroke-dasharray", `${(left * 100).toFixed(1)} 200`);
      ring.setAttribute("data-left", left < 0.1 ? "little" : left < 0.25 ? "some" : "much");
    }
  };
  const numbers = () => {
    for (const one of all("data.num")) put(one, number.format(one.value));
    for (const one of all("data.ms")) put(one, Number(one.value) < 1000 ? `${number.format(one.value)} ms` : lasting(one.value));
  };

  /* ---- what changed is said once in a while, not at each change: the board itself is no live region ---- */
  const SAY_EVERY_MS = 10_000;
  let saidAt = Date.now(), lastSaid = $("#summary")?.textContent.trim(), timer = null;
  const say = (text) => put($("#said"), text);
  const saySummary = () => {
    timer = null;
    const text = $("#summary").textContent.trim();
    if (text !== lastSaid) say((lastSaid = text));
    saidAt = Date.now();
  };
  const title = document.title;
  const summary = () => {
    if (!$("#summary [data-title]")) return;
    const waiting = Number($("#summary [data-title]").dataset.title);
    document.title = waiting ? `(${number.format(waiting)}) ${title}` : title;
    timer ??= setTimeout(saySummary, Math.max(0, saidAt + SAY_EVERY_MS - Date.now()));
  };
  const settle = () => {
    tick();
    numbers();
    summary();
    window.gatePlots?.();
  };

  /* ---- the stream ---- */
  const QUIET_MS = 9_000; // the server speaks every two seconds
  const live = $("#live"), link = $("#link");
  let spokeAt = Date.now();
  const state = (name) => {
    if (!link || link.dataset.state === "signed_out") return;
    link.dataset.state = document.body.dataset.link = name;
    put(link, words[name]);
  };
  const signedOut = () => {
    state("signed_out");
    live.remove();
    const again = document.createElement("a");
    again.href = location.href;
    again.textContent = words.signed_out;
    link.replaceChildren(again);
  };
  const again = () => setTimeout(() => live.isConnected && htmx.trigger(live, "gate:again"), 1000);
  const alive = () => {
    spokeAt = Date.now();
    state("live");
  };
  if (live) {
    live.addEventListener("gate:hello", (event) => {
      const { version, now: serverNow } = JSON.parse(event.detail.data);
      hear(serverNow);
      alive();
      if (version !== $('meta[name="gate-version"]').content && sessionStorage.getItem("gate-version") !== version) {
        sessionStorage.setItem("gate-version", version); // once: a server of before and one of after may stand side by side
        location.reload();
      }
    });
    live.addEventListener("gate:clock", (event) => {
      hear(JSON.parse(event.detail.data).now);
      alive();
    });
    live.addEventListener("gate:signed-out", signedOut);
    live.addEventListener("htmx:sse:before:connection", (event) => event.detail.connection.attempt && state("reconnecting"));
    live.addEventListener("htmx:sse:error", (event) => ([401, 403].includes(event.detail.status) ? signedOut() : state("reconnecting")));
    live.addEventListener("htmx:sse:close", () => { state("reconnecting"); again(); });
    live.addEventListener("htmx:error", () => { state("reconnecting"); again(); });
    live.addEventListener("htmx:response:error", (event) => {
      if ([401, 403].includes(event.detail.ctx.response.status)) return signedOut();
      state("reconnecting");
      again();
    });
    setInterval(() => {
      if (document.hidden || Date.now() - spokeAt < QUIET_MS) return;
      state("reconnecting");
      spokeAt = Date.now();
      live._htmx?.sse?.reader?.cancel(); // a connection that is dead and does not know it
    }, 1000);
  }

  /* ---- forms above the board ---- */
  const dialog = $("#dialog"), form = $("#form");
  document.addEventListener("click", async (event) => {
    const act = event.target.closest("a.act");
    if (act && !event.ctrlKey && !event.metaKey && !event.shiftKey && event.button === 0) {
      event.preventDefault();
      form.replaceChildren();
      await htmx.ajax("GET", act.getAttribute("href"), { target: "#form", swap: "innerHTML" });
      if (!dialog.open && form.childElementCount) dialog.showModal();
      $("[autofocus]", form)?.focus();
    }
    if (event.target.closest("[data-close]")) dialog.close();
  });
  dialog.addEventListener("close", () => {
    if (document.activeElement === document.body) $("#content").focus();
  });
  document.addEventListener("htmx:after:swap", () => {
    const done = $("[data-done]", form);
    if (done?.dataset.to) location.assign(done.dataset.to); // the page is gone
    else if (done) {
      say(done.textContent);
      lastSaid = null;
      form.replaceChildren();
      dialog.close();
    }
    settle();
  });

  setInterval(tick, 1000);
  settle();
})();
