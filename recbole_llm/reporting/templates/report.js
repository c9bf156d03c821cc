// Each table's charts, pairs and runs, from the data beside it.
(() => {
  const made = (name, text, parent, classes) => {
    const found = Object.assign(document.createElement(name), { className: classes || "" });
    if (text !== undefined) found.textContent = text;
    if (parent) parent.append(found);
    return found;
  };
  const signed = (value, count = 4) => (value === null ? "" : (value < 0 ? "" : "+") + value.toFixed(count));
  /** As `p_text` of the tables: a p below 0.05 never reads as one that is not. */
  const pText = (p) => {
    if (p === null) return "";
    if (p < 0.001) return "<0.001";
    return p < 0.05 && p.toFixed(3) === "0.050" ? "<0.050" : p.toFixed(3);
  };

  /** What each figure shows, or nothing; `chosen` is the value of its select. */
  const figures = {
    gains: (data, legend) => {
      const rows = data.gains.filter((r) => legend.shown(r.label)).map((r) => ({
        label: r.label, value: r.difference, low: r.low, high: r.high, tone: r.verdict === "none" ? "" : r.verdict, note: `${r.p_adjusted_text} ${r.mark}`.trim(),
        tip: `${r.label} − ${data.reference}: ${signed(r.difference)}${r.base ? ` (${(100 * r.difference / r.base).toFixed(1)} %)` : ""}\n`
          + `[${signed(r.low)}, ${signed(r.high)}], p ${r.p_adjusted_text}`,
      }));
      return rows.length && ["rows", { rows, title: `${data.primary} − ${data.reference}` }];
    },
    price: (data, legend, chosen) => {
      const points = data.price.points.filter((p) => legend.shown(p.label) && p.costs[chosen] !== null).map((p) => ({
        label: p.label, x: p.costs[chosen], y: p.y, low: p.low, high: p.high,
        tip: `${p.label}\n${data.primary} ${p.y.toFixed(4)}\n${p.costs[chosen].toLocaleString("en")} ${chosen}`,
      }));
      const log = points.every((p) => p.x > 0);
      return points.length && ["points", { points, x: { title: chosen, log }, y: { title: data.primary }, best: data.best }];
    },
    cuts: (data, legend, chosen) => {
      const lines = data.cuts.lines[chosen] || {};
      const series = Object.keys(lines).filter(legend.shown).map((label) => ({ label, x: data.cuts.k, y: lines[label] }));
      const title = Object.fromEntries(data.cuts.names)[chosen];
      return series.length && ["lines", { series, x: { title: "K", log: true, ticks: data.cuts.k }, y: { title: `${title}@K`, zero: true } }];
    },
    groups: (data, legend) => {
      const values = Object.fromEntries(Object.entries(data.groups.values).filter(([label]) => legend.shown(label)));
      return Object.keys(values).length && ["dots", { groups: data.groups.names, values, title: data.primary }];
    },
    training: (data, legend, chosen) => {
      const series = data.training.filter((run) => legend.shown(run.label) && run[chosen].some((value) => value !== null))
        .map((run) => ({ label: run.label, name: `${run.label}, seed ${run.seed}`, x: run.epoch, y: run[chosen] }));
      return series.length && ["lines", { series, x: { title: "epoch" }, y: { title: chosen === "loss" ? "loss" : data.primary } }];
    },
  };
  const offered = {
    price: (data) => data.price.axes.map((name) => [name, name]),
    cuts: (data) => data.cuts.names.filter(([name]) => Object.keys(data.cuts.lines[name]).length),
    training: (data) => [["valid", `validation, ${data.primary}`], ["loss", "loss"]]
      .filter(([part]) => data.training.some((run) => run[part].some((value) => value !== null))),
  };

  const drawCharts = (block, data) => {
    const charts = block.querySelector(".charts"), redraws = [];
    const legend = Charts.legend(charts.querySelector(".legend"), data.labels, () => redraws.forEach((draw) => draw()));
    const everything = { ...legend, shown: () => true };
    charts.querySelectorAll("figure").forEach((figure) => {
      const kind = figure.dataset.chart, select = figure.querySelector("select"), place = figure.querySelector(".chart");
      const options = select ? offered[kind](data) : [];
      options.forEach(([value, title]) => select.append(new Option(title, value)));
      figure.hidden = select ? !options.length : !figures[kind](data, everything);
      if (figure.hidden) return;
      const draw = () => {
        const found = figures[kind](data, legend, select ? select.value : undefined);
        if (found) Charts.kinds[found[0]](place, found[1], legend.style);
        else place.replaceChildren();
      };
      if (select) select.addEventListener("change", draw);
      redraws.push(draw);
      Charts.keep(place, draw);
    });
    charts.hidden = !redraws.length;
  };

  const showPairs = (details, { labels, users, rows }) => {
    const table = made("table", undefined, made("div", undefined, details, "scroll"), "sortable sticky");
    const head = table.createTHead().insertRow();
    ["first", "second", "difference", "95 % interval", "d", `better / worse of ${users} users`, "p alone", "p", "Wilcoxon p"].forEach((name, n) => {
      made("button", name, made("th", undefined, head, n > 1 ? "n" : "")).type = "button";
    });
    const body = table.createTBody();
    for (const [first, second, difference, low, high, effect, greater, less, alone, p, wilcoxon, mark, verdict] of rows) {
      const row = made("tr", undefined, body);
      made("th", labels[first], row).scope = "row";
      made("td", labels[second], row);
      for (const [value, text] of [[difference, signed(difference)], [low, `[${signed(low)}, ${signed(high)}]`], [effect, signed(effect, 2)],
        [greater, `${greater} / ${less}`], [alone, pText(alone)], [p, pText(p)], [wilcoxon, pText(wilcoxon)]]) {
        made("td", text, row, "n").dataset.v = value === null ? "" : value;
      }
      if (mark) made("span", ` ${mark}`, row.cells[7], verdict);
    }
  };

  const showFacts = (parent, { facts, settings }, origins) => {
    const columns = made("div", undefined, parent, "columns");
    for (const [title, values] of [["settings", settings], ["circumstances", facts]]) {
      const names = Object.keys(values);
      if (!names.length) continue;
      const table = made("table", undefined, made("div", undefined, columns));
      made("caption", title, table);
      if (title === "settings") names.sort((a, b) => (b in origins) - (a in origins) || a.localeCompare(b));
      for (const name of names) {
        const row = made("tr", undefined, table);
        made("th", name, row).scope = "row";
        made("td", values[name], row);
        if (title === "settings") made("td", origins[name] || "RecBole", row, "soft");
      }
    }
  };
  const later = (details, fill) => details.addEventListener("toggle", () => fill(), { once: true });
  const listRuns = (place, { common, rows, origins }) => {
    const shared = made("details", undefined, place, "run");
    made("summary", "What all runs of this table share", shared);
    later(shared, () => showFacts(shared, common, origins));
    for (const row of rows) {
      const details = made("details", undefined, place, "run");
      const failed = row.runs.filter((run) => run.error !== null);
      const summary = made("summary", row.label, details);
      if (failed.length) made("span", ` failed: ${failed.map((run) => run.seed).join(", ")}`, summary, "worse");
      later(details, () => {
        showFacts(details, row, origins);
        for (const run of row.runs) {
          made("h4", `seed ${run.seed}`, details);
          if (run.error !== null) made("pre", run.error, details);
          showFacts(details, run, origins);
        }
      });
    }
  };

  document.querySelectorAll("section.block").forEach((block) => {
    const data = JSON.parse(block.querySelector("script.data").textContent);
    drawCharts(block, data);
    listRuns(block.querySelector(".runs"), data.runs);
    const pairs = block.querySelector("details.pairs");
    if (pairs) later(pairs, () => showPairs(pairs, data.pairs));
    const showCut = () => {
      const chosen = block.querySelector("input[type=radio]:checked");
      if (chosen) block.querySelectorAll("table.main [data-cut]").forEach((cell) => {
        cell.hidden = chosen.value !== "" && cell.dataset.cut !== "" && cell.dataset.cut !== chosen.value;
      });
    };
    block.querySelectorAll("input[type=radio]").forEach((input) => input.addEventListener("change", showCut));
    showCut();
  });
})();
