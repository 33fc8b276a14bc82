"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const key = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.sort === undefined ? cell.textContent : Number(cell.dataset.sort);
  };
  const empty = value => value === "" || value === "-";
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") !== "descending";
    heads.forEach(one => one.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows].sort((one, other) => {
      const a = key(one, column), b = key(other, column);
      if (empty(a) || empty(b)) return empty(a) - empty(b);
      const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, {numeric: true});
      return down ? -order : order;
    });
    body.append(...rows);
  }));
}
for (const plot of document.querySelectorAll(".plot")) {
  const readout = plot.querySelector(".readout");
  for (const mark of plot.querySelectorAll(".mark[data-tip]"))
    for (const event of ["mouseenter", "focus", "click"])
      mark.addEventListener(event, () => { readout.textContent = mark.dataset.tip; });
  for (const box of plot.querySelectorAll("input[data-series]"))
    box.addEventListener("change", () =>
      plot.querySelector(`g[data-series="${box.dataset.series}"]`).classList.toggle("off", !box.checked));
}
