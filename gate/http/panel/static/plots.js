/* The tables of how it went, drawn. What is drawn stands in the table beside it, for whoever reads and does not see. */
(() => {
  "use strict";
  const OUTCOMES = ["completed", "failed", "cancelled", "expired"];
  const PLOTS = {
    outcomes: { series: OUTCOMES, stacked: true },
    waits: { series: ["wait_p95", "wait_p50"], lasts: true },
    holds: { series: ["hold_p95", "hold_p50"], lasts: true },
    refunds: { series: ["refunded"], stacked: true },
  };
  const REFRESH_MS = 15_000, HEIGHT = 110;
  const language = document.documentElement.lang;
  const hour = new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  const date = new Intl.DateTimeFormat(language, { day: "numeric", month: "short" });
  const compact = new Intl.NumberFormat(language, { notation: "compact" });
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--plot-${name}`).trim();
  const drawn = new Map();
  let read = null;

  const table = () => {
    const found = document.querySelector("table[data-buckets]");
    if (!found) return null;
    const names = [...found.querySelectorAll("thead [data-series]")].map((head) => [head.dataset.series, head.textContent]);
    const rows = [...found.querySelectorAll("tbody tr")];
    const columns = Object.fromEntries(names.map(([name], i) => [name, rows.map((row) => {
      const cell = row.children[i + 1].querySelector("data");
      return cell ? Number(cell.value) : null;
    })]));
    return { at: rows.map((row) => row.dataset.at / 1000), columns, labels: Object.fromEntries(names) };
  };

  const stack = (columns) => columns.map((_, i) => columns.slice(0, i + 1).reduce((sum, one) => sum.map((n, k) => n + one[k]), columns[0].map(() => 0))).reverse();
  const lasting = (ms) => (ms === null ? "" : ms < 1000 ? `${Math.round(ms)} ms` : window.gateShown.lasting(ms));

  const key = (figure, spec, found, at) => {
    const place = figure.querySelector(".key");
    place.replaceChildren(...spec.series.map((name) => {
      const item = document.createElement("span");
      item.dataset.series = name;
      const values = found.columns[name];
      const label = name === "wait_p50" || name === "hold_p50" ? found.labels[name].split(", ").pop() : found.labels[name];
      const value = at == null ? null : values[at];
      item.textContent = value == null ? label : `${label} ${spec.lasts ? lasting(value) : window.gateShown.number.format(value)}`;
      return item;
    }));
  };

  const options = (figure, spec, width, span) => {
    const step = read.at.length > 1 ? read.at[1] - read.at[0] : 60;
    const axis = { stroke: color("ink"), grid: { stroke: color("grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    const bars = uPlot.paths.bars({ size: [0.82, 24] });
    return {
      width, height: HEIGHT, legend: { show: false }, padding: [8, 18, 0, 0],
      cursor: { y: false, points: { show: false }, drag: { setScale: false } },
      scales: { x: { time: true, range: (_, min, max) => [min - step / 2, max + step / 2] }, y: { range: (_, __, max) => [0, Math.max(max || 0, spec.lasts ? 1000 : 1) * 1.08] } },
      axes: [
        { ...axis, size: 24, gap: 4, space: 56, values: (_, ticks) => ticks.map((s) => (span === "week" ? date : hour).format(s * 1000)) },
        { ...axis, size: spec.lasts ? 56 : 40, gap: 6, space: 26, incrs: spec.lasts ? [100, 500, 1000, 2000, 5000, 10000, 30000, 60000, 120000, 300000, 600000, 1800000, 3600000, 7200000, 14400000, 43200000, 86400000] : [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 1000000, 10000000, 100000000],
          values: (_, ticks) => ticks.map((n) => (n === 0 ? "0" : spec.lasts ? lasting(n) : compact.format(n))) },
      ],
      series: [{}, ...(spec.stacked ? [...spec.series].reverse() : spec.series).map((name) => ({
        stroke: color(name), fill: spec.stacked ? color(name) : undefined, width: spec.stacked ? 0 : 2,
        paths: spec.stacked ? bars : undefined, points: { show: !spec.stacked, size: 4, fill: color(name) }, spanGaps: false,
      }))],
      hooks: { setCursor: [(u) => key(figure, spec, read, u.cursor.idx)] },
    };
  };

  const draw = (anew) => {
    read = table();
    if (!read) return;
    const span = document.querySelector("[data-plots]").dataset.span;
    for (const figure of document.querySelectorAll("[data-plot]")) {
      const name = figure.dataset.plot, spec = PLOTS[name], canvas = figure.querySelector(".canvas");
      const columns = spec.series.map((one) => read.columns[one]);
      const data = [read.at, ...(spec.stacked ? stack(columns) : columns)];
      const before = drawn.get(name);
      if (before && before.canvas === canvas && before.span === span && !anew) before.plot.setData(data);
      else {
        before?.plot.destroy();
        drawn.set(name, { canvas, span, plot: new uPlot(options(figure, spec, canvas.clientWidth, span), data, canvas) });
        sizes.observe(canvas);
      }
      key(figure, spec, read, null);
    }
  };
  const sizes = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      for (const { canvas, plot } of drawn.values()) {
        if (canvas === target && target.clientWidth && plot.width !== target.clientWidth) plot.setSize({ width: target.clientWidth, height: HEIGHT });
      }
    }
  });

  let seen = null;
  window.gatePlots = () => {
    const found = document.querySelector("table[data-buckets] tbody");
    const now = found && found.textContent.length + found.innerHTML; // only when there is something else to draw
    if (now && now !== seen) draw(false);
    seen = now;
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(true));
  setInterval(() => {
    const again = document.querySelector("#trends [hx-trigger='gate:refresh']");
    if (again && !document.hidden) htmx.trigger(again, "gate:refresh");
  }, REFRESH_MS);
})();
