"use strict";
(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const ink = () => getComputedStyle(document.documentElement).getPropertyValue("--soft").trim();
  const repaint = () => document.querySelectorAll(".js-plotly-plot").forEach((one) => Plotly.relayout(one, { "font.color": ink() }));
  dark.addEventListener("change", repaint);

  const later = new Set(document.querySelectorAll(".drawn-later"));
  const seen = new IntersectionObserver((entries) => entries.forEach((one) => { if (one.isIntersecting) { drawNow(one.target); } }), { rootMargin: "800px" });
  later.forEach((place) => seen.observe(place));
  window.addEventListener("beforeprint", () => [...later].forEach(drawNow));
  const firstOnes = [...later].filter((place) => place.getBoundingClientRect().top < window.innerHeight);
  firstOnes.forEach(drawNow);
  const source = document.getElementById("minute-data");
  if (source) { whenNear(document.getElementById("minute-plot"), () => closeUp(JSON.parse(source.textContent))); }
  performance.mark("kvhorizon-drawn");
  document.documentElement.dataset.drawn = "1";

  function whenNear(place, act) {
    const near = new IntersectionObserver((entries) => { if (entries.some((one) => one.isIntersecting)) { near.disconnect(); act(); } }, { rootMargin: "800px" });
    near.observe(place);
    window.addEventListener("beforeprint", () => { near.disconnect(); if (!place.classList.contains("js-plotly-plot")) { act(); } });
  }

  function drawNow(place) {
    if (!later.delete(place)) { return; }
    seen.unobserve(place);
    const { data, layout } = JSON.parse(place.nextElementSibling.textContent);
    Plotly.newPlot(place, data, { ...layout, font: { ...layout.font, color: ink() } }, { responsive: true, displayModeBar: false });
  }

  function closeUp(data) {
    const at = document.getElementById("minute-at"), which = document.getElementById("minute-policy");
    const says = document.getElementById("minute-says"), plot = document.getElementById("minute-plot");
    const body = document.querySelector("#minute-events tbody");
    const step = (by) => { at.value = String(Number(at.value) + by); draw(); };
    at.addEventListener("input", draw);
    which.addEventListener("change", draw);
    document.getElementById("minute-back").addEventListener("click", () => step(-1));
    document.getElementById("minute-on").addEventListener("click", () => step(1));
    draw();

    function draw() {
      const one = data.policies[Number(which.value)], from = Number(at.value) * data.window_s, to = from + data.window_s;
      const inside = (times) => times.map((t, n) => [t, n]).filter(([t]) => t >= from && t < to).map(([, n]) => n);
      const rows = inside(one.at), events = inside(one.evicted_at);
      const pick = (name) => rows.map((n) => one[name][n]);
      const clock = (t) => `${Math.floor(t / 60)}:${(t % 60).toFixed(0).padStart(2, "0")}`;
      at.setAttribute("aria-valuetext", `from ${clock(from)} to ${clock(to)}`);
      const unknown = one.known_until !== null && to > one.known_until;
      says.textContent = `${clock(from)} to ${clock(to)}: ${events.length} eviction${events.length === 1 ? "" : "s"}` +
        (one.share < 1 ? ` shown, ${(100 * one.share).toFixed(0)} % of all` : "") +
        (unknown ? `, later than ${clock(one.known_until)} not listed` : "") +
        (rows.length ? `, up to ${Math.max(...pick("waiting"))} waiting` : "");
      const line = (name, y, axis, tint, fill) => ({ x: pick("at"), y, name, yaxis: axis, mode: "lines", line: { color: tint, width: 2 }, fill });
      Plotly.react(plot, [
        line("KV in use", pick("used").map((u) => u / data.blocks), "y", "#0b6bcb", "tozeroy"),
        line("running", pick("running"), "y2", "#2f9e77"),
        line("waiting", pick("waiting"), "y2", "#d98e04"),
        { x: events.map((n) => one.evicted_at[n]), y: events.map(() => 1.06), name: "eviction", mode: "markers",
          marker: { symbol: "line-ns-open", color: "#d1495b", size: 10, line: { width: 2 } } },
      ], {
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink(), size: 13 },
        margin: { l: 60, r: 60, t: 10, b: 50 }, height: 360, legend: { orientation: "h", y: 1.15 }, hovermode: "x unified",
        xaxis: { title: { text: "virtual time [s]" }, range: [from, to], gridcolor: "rgba(128,128,128,.25)" },
        yaxis: { range: [0, 1.12], tickformat: ".0%", gridcolor: "rgba(128,128,128,.25)" },
        yaxis2: { overlaying: "y", side: "right", rangemode: "tozero", showgrid: false, tickmode: "auto", title: { text: "requests" } },
      }, { responsive: true, displayModeBar: false });
      body.replaceChildren(...(unknown && !events.length ? [row(["", "", "not listed", "there were more evictions than are kept"])] : events.length ? events.slice(0, 50).map((n) => evicted(one, n)) : [held(one, rows)]));
    }

    function evicted(one, n) {
      const near = nearest(one.at, one.evicted_at[n]);
      const why = `no block was free for the next token with ${one.running[near]} running (${share(one.used[near])} in use); ${one.rule}`;
      const who = `${one.request[n]} (${one.prompt[n].toLocaleString()} in, ${one.output[n].toLocaleString()} out)`;
      const what = `evicted; ${one.times[n]} time${one.times[n] === 1 ? "" : "s"} in all, ${one.again[n].toLocaleString()} tokens computed again`;
      return row([`${one.evicted_at[n].toFixed(1)} s`, who, what, why]);
    }

    function held(one, rows) {
      const waiting = rows.filter((n) => one.waiting[n] > 0);
      if (!waiting.length) { return row(["", "", "no request was evicted", "and no request waited longer than a step"]); }
      const n = waiting.reduce((a, b) => (one.waiting[b] > one.waiting[a] ? b : a));
      const why = `${share(one.used[n])} of the blocks were in use by ${one.running[n]} requests; the rest is too little for the next, or is kept for those running to grow`;
      return row([`${one.at[n].toFixed(1)} s`, "", `no_request was evicted; up to ${one.waiting[n]} held back`, why]);
    }

    function share(used) { return `${(100 * used / data.blocks).toFixed(0)} %`; }

    function nearest(times, t) {
      let low = 0, high = times.length - 1;
      while (low < high) { const middle = (low + high) >> 1; if (times[middle] < t) { low = middle + 1; } else { high = middle; } }
      return Math.max(low, 0);
    }

    function row(texts) {
      const made = document.createElement("tr");
      texts.forEach((text) => { const cell = document.createElement("td"); cell.textContent = text; made.append(cell); });
      return made;
    }
  }
})();
