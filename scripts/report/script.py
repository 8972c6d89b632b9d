"""What a browser that runs scripts can do besides: sort and filter the table of cases, and leaf through their pictures.

The page is whole without it.
"""

SCRIPT = """
"use strict";
(() => {
  const table = document.querySelector("#cases table");
  if (!table) return;
  const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
  const filters = document.querySelector(".filters"), count = document.querySelector(".count");
  const [text, low, high, failed] = filters.querySelectorAll("input");
  const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();

  const filter = () => {
    const words = text.value.toLowerCase().split(" ").filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const dice = Number(row.dataset.dice), all = row.textContent.toLowerCase();
      row.hidden = !words.every(word => all.includes(word)) || failed.checked && !row.dataset.failed ||
        low.value && dice < Number(low.value) || high.value && dice > Number(high.value);
      shown += !row.hidden;
    }
    count.textContent = shown + " of " + rows.length + " cases shown";
  };

  const sort = column => {
    const up = heads[column].getAttribute("aria-sort") !== "ascending", sign = up ? 1 : -1;
    heads.forEach(head => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", up ? "ascending" : "descending");
    const numeric = rows.every(row => !isNaN(value(row, column)));
    const compare = (a, b) => numeric ? a - b : a.localeCompare(b, "en", {numeric: true});
    rows.sort((first, second) => {
      const a = value(first, column), b = value(second, column);
      return a === "" || b === "" ? (a === "") - (b === "") : sign * compare(a, b);
    });
    body.append(...rows);
  };

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(column));
  });
  filters.addEventListener("input", filter);
  filters.addEventListener("reset", () => setTimeout(filter));
  filters.addEventListener("submit", event => event.preventDefault());
  filters.hidden = false;
  filter();

  document.querySelectorAll("a[data-low]").forEach(bar => bar.addEventListener("click", () => {
    [low.value, high.value] = [bar.dataset.low, bar.dataset.high];
    filter();
  }));

  const opened = () => document.querySelector(".case:target");
  const rowOf = card => card && document.getElementById(card.id.replace("case", "row"));
  let from = null;
  document.addEventListener("click", event => {
    const link = event.target.closest("a[href^='#case-']");
    if (link && !link.closest(".case")) from = link;
  });
  addEventListener("hashchange", () => {
    rows.forEach(row => row.classList.remove("open"));
    const card = opened();
    rowOf(card)?.classList.add("open");
    card?.focus();
  });
  document.addEventListener("keydown", event => {
    const card = opened();
    if (!card || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "Escape") {
      location.hash = card.querySelector("nav a:last-child").hash;
      (from ?? rowOf(card)?.querySelector("a"))?.focus();
    }
    const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (!step) return;
    const cards = rows.filter(row => !row.hidden && document.getElementById(row.id.replace("row", "case")));
    const next = cards[cards.indexOf(rowOf(card)) + step];
    if (next) location.hash = next.id.replace("row", "case");
  });
})();
"""
