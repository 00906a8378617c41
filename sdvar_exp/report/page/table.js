// The table: sorts by a heading, filters, and chooses a cell.
(() => {
  const table = $("cells-table");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];

  const value = (row, column) => {
    const cell = row.cells[column];
    if (heads[column].dataset.kind === "text") return cell.textContent.trim().toLowerCase();
    const text = cell.dataset.value ?? cell.textContent;
    return text === "" ? null : Number(text);
  };
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);

  function sort(column, direction) {
    heads.forEach((head, i) => (i === column ? head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending") : head.removeAttribute("aria-sort")));
    const keyed = rows.map((row, place) => [value(row, column), place, row]);
    keyed.sort(([a, i], [b, j]) => (a === null || b === null ? (a === null) - (b === null) : direction * compare(a, b)) || i - j);
    body.append(...keyed.map(([, , row]) => row));
  }
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => sort(column, head.getAttribute("aria-sort") === "ascending" ? -1 : 1)));

  const form = $("filters");
  const texts = rows.map((row) => `${row.textContent} ${row.dataset.factors}`.toLowerCase());
  function filter() {
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const strategies = new Set([...form.querySelectorAll("input[name=strategy]:checked")].map((box) => box.value));
    const lossless = $("lossless").value;
    const factors = [...form.querySelectorAll("select[data-factor]")].filter((one) => one.value).map((one) => `${one.dataset.factor}=${one.value}`);
    const front = $("front").checked;
    let left = 0;
    rows.forEach((row, i) => {
      const data = row.dataset;
      const keep = strategies.has(data.strategy) && (!lossless || data.lossless === lossless) && (!front || data.front === "1") && words.every((word) => texts[i].includes(word)) && factors.every((factor) => ` ${data.factors} `.includes(` ${factor} `));
      row.hidden = !keep;
      left += keep;
    });
    $("count").textContent = `${left} of ${rows.length} cells`;
  }
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter));
  $("front").parentElement.hidden = !rows.some((row) => row.dataset.front === "1");
  filter();

  body.addEventListener("click", (event) => {
    if (event.target.closest("a")) return;
    const row = event.target.closest("tr");
    if (row && !String(getSelection())) choose(row.dataset.cell);
  });
  const cards = [...document.querySelectorAll("#cards > .card")];
  FOLLOWERS.push((id) => {
    for (const row of rows) {
      row.classList.toggle("chosen", row.dataset.cell === id);
      row.querySelector(".pick").setAttribute("aria-pressed", String(row.dataset.cell === id));
    }
    for (const card of cards) card.classList.toggle("shown", card.dataset.cell === id);
  });
})();
