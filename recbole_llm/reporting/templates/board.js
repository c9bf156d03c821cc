"use strict";
// Rows that a reader chooses; without a script the table is whole.
(() => {
  const bar = document.getElementById("filters"), inputs = [...bar.querySelectorAll("[data-field]")];
  const rows = [...document.querySelectorAll("table.board tbody tr")];
  const fits = (row, input) => {
    const field = input.dataset.field, value = row.dataset[field];
    if (input.value === "") return true;
    if (field === "seeds") return Number(value) >= Number(input.value);
    if (field === "price") return value !== "" && Number(value) <= Number(input.value);
    if (field === "hardware") return JSON.parse(value).includes(input.value);
    return value === input.value;
  };
  const choose = () => {
    rows.forEach((row) => { row.hidden = !inputs.every((input) => fits(row, input)); });
    const shown = rows.filter((row) => !row.hidden).length;
    document.getElementById("count").textContent = shown + " of " + rows.length + (rows.length === 1 ? " row" : " rows");
  };
  inputs.forEach((input) => input.addEventListener("input", choose));
  bar.hidden = false;
  choose();
})();
