"use strict";
(() => {
  const root = document.documentElement;
  const PALETTES = {
    light: ["#0b5cad", "#d55e00", "#00805b", "#a0438a", "#8a6d00", "#2aa3c4", "#c03a3a", "#5b6470"],
    dark: ["#7db7f5", "#ff9f5a", "#4fd0a0", "#e69ad2", "#e5cd5c", "#7fdcf2", "#ff8a80", "#aab4c0"],
  };
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const plots = [];  // functions that draw a chart again

  const escape = (text) => String(text).replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);
  const variable = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  // ---- tables: sorted by the column that is clicked, empty cells last ---------------------------------------
  const valueOf = (cell) => {
    if (cell === undefined) return "";
    if (cell.dataset.v === undefined) return cell.textContent.trim().toLowerCase();
    return cell.dataset.v === "" ? "" : Number(cell.dataset.v);
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
  document.querySelectorAll("table.sortable").forEach((table) => {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") === "descending" ? false
        : head.getAttribute("aria-sort") === "ascending" ? true : head.classList.contains("n");
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row.cells[column]), row]);
      rows.sort(([a], [b]) => (a === "" || b === "" ? (a === "") - (b === "") : falling ? compare(b, a) : compare(a, b)));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    }));
  });

  // ---- charts ------------------------------------------------------------------------------------------------
  const layout = (more) => {
    const axis = { gridcolor: variable("--line"), zerolinecolor: variable("--soft"), automargin: true };
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: variable("--text"), size: 12 },
      margin: { l: 50, r: 15, t: 10, b: 45 },
      hoverlabel: { bgcolor: variable("--panel"), bordercolor: variable("--line"), font: { color: variable("--text") } },
      legend: { orientation: "h", y: -0.2 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: variable("--line"), activecolor: variable("--accent") },
      ...more,
      xaxis: { ...axis, ...(more.xaxis || {}) }, yaxis: { ...axis, ...(more.yaxis || {}) },
    };
  };

  const CHARTS = {
    gains(data, style) {
      const colors = { better: variable("--better"), worse: variable("--worse"), none: variable("--soft"), "": variable("--soft") };
      const rows = data.gains;
      return rows.length && {
        traces: [{
          type: "bar", orientation: "h", y: rows.map((r) => escape(r.label)), x: rows.map((r) => r.difference),
          marker: { color: rows.map((r) => colors[r.verdict]), opacity: 0.8 },
          error_x: { type: "data", symmetric: false, array: rows.map((r) => r.high - r.difference),
                     arrayminus: rows.map((r) => r.difference - r.low), color: variable("--text") },
          text: rows.map((r) => (r.base ? (100 * r.difference / r.base).toFixed(1) + " %" : "")), textposition: "none",
          customdata: rows.map((r) => [r.p_adjusted_text, r.verdict ? r.verdict + (r.one_training ? ", for these trainings" : "") : "does not hold"]),
          hovertemplate: "%{y}: %{x:.4f} (%{text})<br>p %{customdata[0]}, %{customdata[1]}<extra></extra>",
        }],
        layout: { showlegend: false, xaxis: { zeroline: true }, yaxis: { type: "category" } },
      };
    },
    cuts(data, style, chosen) {
      const lines = data.cuts.lines[chosen] || {};
      return Object.keys(lines).length && {
        traces: data.rows.filter((label) => lines[label]).map((label) => ({
          type: "scatter", mode: "lines+markers", name: escape(label), x: data.cuts.k, y: lines[label],
          line: style(label), hovertemplate: "%{y:.4f} @%{x}<extra>" + escape(label) + "</extra>",
        })),
        layout: { xaxis: { type: "log", title: { text: "K" }, tickvals: data.cuts.k },
                  yaxis: { title: { text: Object.fromEntries(data.cuts.names)[chosen] + "@K" }, rangemode: "tozero" } },
      };
    },
    groups(data, style) {
      const labels = data.rows.filter((label) => data.groups.values[label]);
      return labels.length && {
        traces: labels.map((label) => ({
          type: "bar", name: escape(label), x: data.groups.names.map((name) => name.replace(" (", "<br>(")), y: data.groups.values[label],
          marker: { color: style(label).color }, hovertemplate: "%{y:.4f}<extra>" + escape(label) + "</extra>",
        })),
        layout: { barmode: "group", yaxis: { title: { text: data.primary } } },
      };
    },
    training(data, style, chosen) {
      const seen = new Set();
      const runs = data.training.filter((run) => run[chosen].some((value) => value !== null));
      return runs.length && {
        traces: runs.map((run) => {
          const first = !seen.has(run.label);
          seen.add(run.label);
          return {
            type: "scatter", mode: "lines", name: escape(run.label), legendgroup: run.label, showlegend: first,
            x: run.epoch, y: run[chosen], connectgaps: true, opacity: 0.75, line: { ...style(run.label), width: 1.5 },
            hovertemplate: "epoch %{x}: %{y:.4f}<extra>" + escape(run.label) + ", seed " + run.seed + "</extra>",
          };
        }),
        layout: { xaxis: { title: { text: "epoch" } }, yaxis: { title: { text: chosen === "loss" ? "loss" : data.primary } } },
      };
    },
    price(data, style, chosen) {
      const points = data.price.points;
      return points.length && chosen && {
        traces: points.map((p) => ({
          type: "scatter", mode: "markers", name: escape(p.label), x: [p.costs[chosen]], y: [p.y],
          marker: { size: 11, color: style(p.label).color },
          error_y: p.low === null ? { visible: false } : {
            type: "data", symmetric: false, array: [p.high - p.y], arrayminus: [p.y - p.low], color: style(p.label).color },
          hovertemplate: "%{x:,.6~g}: %{y:.4f}<extra>" + escape(p.label) + "</extra>",
        })),
        layout: { xaxis: { title: { text: chosen }, type: points.every((p) => p.costs[chosen] > 0) ? "log" : "linear" },
                  yaxis: { title: { text: data.primary } } },
      };
    },
  };

  document.querySelectorAll("section.block").forEach((block) => {
    const data = JSON.parse(block.querySelector("script.data").textContent);
    const style = (label) => {
      const colors = PALETTES[root.dataset.theme], number = data.rows.indexOf(label);
      return { color: colors[number % colors.length], dash: DASHES[Math.floor(number / colors.length) % DASHES.length] };
    };
    const offered = { cuts: data.cuts.names, price: data.price.axes.map((name) => [name, name]) };
    block.querySelectorAll("figure").forEach((figure) => {
      const kind = figure.dataset.chart, select = figure.querySelector("select"), place = figure.querySelector(".chart");
      (offered[kind] || []).forEach(([value, title]) => select.append(new Option(title, value)));
      const draw = () => {
        const chart = CHARTS[kind](data, style, select ? select.value : undefined);
        figure.hidden = !chart && !select;
        if (chart) Plotly.react(place, chart.traces, layout(chart.layout), { responsive: true, displaylogo: false });
        else place.textContent = "nothing to show";
      };
      if (select) select.addEventListener("change", draw);
      plots.push(draw);
    });
    const showCut = () => {
      const chosen = block.querySelector("input[type=radio]:checked");
      if (chosen) block.querySelectorAll("table.main [data-cut]").forEach((cell) => {
        cell.hidden = chosen.value !== "" && cell.dataset.cut !== "" && cell.dataset.cut !== chosen.value;
      });
    };
    block.querySelectorAll("input[type=radio]").forEach((input) => input.addEventListener("change", showCut));
    showCut();
  });

  // ---- light and dark ----------------------------------------------------------------------------------------
  const preferred = window.matchMedia("(prefers-color-scheme: dark)");
  const paint = (theme) => {
    root.dataset.theme = theme;
    plots.forEach((draw) => draw());
  };
  document.getElementById("theme").addEventListener("click", () => paint(root.dataset.theme === "dark" ? "light" : "dark"));
  preferred.addEventListener("change", () => paint(preferred.matches ? "dark" : "light"));
  paint(preferred.matches ? "dark" : "light");
})();
