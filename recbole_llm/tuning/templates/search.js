// Each search's charts, from the data beside it.
(() => {
  const figures = {
    history: ({ history, metric }) => {
      const points = history.filter((trial) => trial.value !== null).map((trial) => ({
        label: trial.state, x: trial.number, y: trial.value,
        tip: `trial ${trial.number}, ${trial.state}: ${trial.value.toFixed(4)}\n${trial.params}`,
      }));
      return points.length && ["points", { points, x: { title: "trial" }, y: { title: metric }, best: "high" }];
    },
    front: ({ history, metric }) => {
      const points = history.filter((trial) => trial.seconds !== null).map((trial) => ({
        label: trial.state, x: trial.seconds, y: trial.value,
        tip: `trial ${trial.number}: ${trial.value.toFixed(4)}, ${trial.seconds.toPrecision(3)} s\n${trial.params}`,
      }));
      return points.length && ["points", { points, x: { title: "seconds of training" }, y: { title: metric }, best: "high" }];
    },
    importances: ({ importances }) => importances.length && ["bars", {
      rows: importances.map(([label, value]) => ({ label, value, tip: `${label}: ${(100 * value).toFixed(1)} %` })),
      title: "share of the variance",
    }],
    parallel: ({ parallel, metric }) => {
      if (!parallel) return null;
      const values = parallel.lines.map((line) => line.value), low = Math.min(...values), high = Math.max(...values);
      const lines = parallel.lines.map((line) => ({
        values: [...line.values, line.value], share: (line.value - low) / (high - low), tip: `trial ${line.number}: ${line.value.toFixed(4)}`,
      }));
      return ["parallel", { axes: [...parallel.axes, { title: metric }], lines }];
    },
  };
  const colour = () => getComputedStyle(document.documentElement);
  const style = (state) => ({ colour: colour().getPropertyValue(state === "complete" ? "--accent" : "--soft").trim(), shape: state === "complete" ? 0 : 3 });
  document.querySelectorAll("section.block").forEach((block) => {
    const data = JSON.parse(block.querySelector("script.data").textContent);
    block.querySelectorAll("figure").forEach((figure) => {
      const found = figures[figure.dataset.chart](data), place = figure.querySelector(".chart");
      figure.hidden = !found;
      if (found) Charts.keep(place, () => Charts.kinds[found[0]](place, found[1], style));
    });
  });
})();
