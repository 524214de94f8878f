// Sorting, choosing rows, moving about, and the popover over a number.

// ---- tables: one view each

const views = data.tables.map((content) => {
  const table = byId(`table-${content.name}`);
  const view = { content, table, body: table.tBodies[0], rows: [...table.tBodies[0].rows], sorted: null };
  view.numLabels = table.tHead.rows[0].querySelectorAll(".label").length;
  const [first, second] = table.tHead.rows;
  view.headers = [...[...first.cells].slice(0, view.numLabels), ...second.cells];
  view.headers.forEach((header, key) => {
    const title = header.querySelector(".title");
    title.replaceWith(button(title.textContent, () => sort(view, key)));
  });
  view.rows.forEach((row, place) => row.setAttribute("data-place", place));
  table.setAttribute("role", "grid");
  return view;
});

const cellsOf = (row, view) => [...row.cells].slice(view.numLabels);

function placeOf(cell, view) {
  return [Number(cell.parentElement.dataset.place), cell.cellIndex - view.numLabels];
}

function numberAt(view, row, column) {
  return named(data.fields, view.content.rows[row].cells[column]);
}

function titleAt(view, row, column) {
  return `${view.content.rows[row].labels.join(" · ")} · ${view.content.columns[column].title}`;
}

// Up, down, and the table's own order; of numbers the largest first. What is no number comes last either way.
function sort(view, key) {
  const isLabel = key < view.numLabels;
  const steps = isLabel ? [1, -1] : [-1, 1];
  const next = view.sorted?.key === key ? steps[steps.indexOf(view.sorted.direction) + 1] : steps[0];
  view.sorted = next ? { key, direction: next } : null;
  const keyOf = (row) => {
    const content = view.content.rows[row.dataset.place];
    return isLabel ? content.labels[key] : (content.cells[key - view.numLabels][0] ?? null);
  };
  const order = [...view.rows];
  if (view.sorted) {
    order.sort((one, other) => {
      const [a, b] = [keyOf(one), keyOf(other)];
      if (a === null || b === null) return (a === null) - (b === null);
      return next * (isLabel ? a.localeCompare(b, "en", { numeric: true }) : a - b);
    });
  }
  view.body.append(...order);
  view.headers.forEach((header, place) => {
    if (place === key && next) header.setAttribute("aria-sort", next > 0 ? "ascending" : "descending");
    else header.removeAttribute("aria-sort");
  });
  view.table.classList.toggle("sorted", view.sorted !== null);
  blankRepeats(view);
}

// In the table's own order, labels that repeat those of the row above are not shown again, but for the last.
function blankRepeats(view) {
  let above = null;
  for (const row of view.body.rows) {
    if (row.hidden) continue;
    const labels = view.content.rows[row.dataset.place].labels;
    let isSame = above !== null && view.sorted === null;
    labels.forEach((label, place) => {
      isSame = isSame && label === above[place] && place < labels.length - 1;
      row.cells[place].classList.toggle("again", isSame);
    });
    above = labels;
  }
}

// ---- which rows are shown

const form = byId("filters");

function filter() {
  const chosen = ["model", "scheme", "method"].map(
    (axis) => new Set([...form.querySelectorAll(`[name=${axis}]:checked`)].map((box) => Number(box.value))),
  );
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const withReference = form.elements.reference.checked;
  const isChosen = (axis, row) => chosen[axis].size === 0 || chosen[axis].has(row.names[axis]);
  let [numShown, numRows] = [0, 0];
  for (const view of views) {
    view.rows.forEach((node, place) => {
      const row = view.content.rows[place];
      const text = row.labels.join(" ").toLowerCase();
      const isFound = isChosen(1, row) && isChosen(2, row) && words.every((word) => text.includes(word));
      node.hidden = !(isChosen(0, row) && (row.reference ? withReference : isFound));
      numShown += !node.hidden;
      numRows += 1;
    });
    blankRepeats(view);
    keepOneTabStop(view);
  }
  byId("shown").textContent = `${numShown} of ${numRows} rows`;
  measure();
}

form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
byId("show-all").addEventListener("click", () => {
  form.reset();
  filter();
});

// ---- moving within a table: one stop of the Tab key, arrows within

function keepOneTabStop(view) {
  if (view.current && !view.current.parentElement.hidden) return;
  view.current?.setAttribute("tabindex", "-1");
  view.current = [...view.body.rows].find((row) => !row.hidden)?.querySelector("td") ?? null;
  view.current?.setAttribute("tabindex", "0");
}

function focus(view, cell) {
  view.current?.setAttribute("tabindex", "-1");
  view.current = cell;
  cell.setAttribute("tabindex", "0");
}

const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

function move(view, cell, [down, right]) {
  const rows = [...view.body.rows].filter((row) => !row.hidden);
  const row = rows[rows.indexOf(cell.parentElement) + down];
  cellsOf(row ?? cell.parentElement, view)[cell.cellIndex - view.numLabels + right]?.focus();
}

for (const view of views) {
  const at = (event) => event.target.closest("td");
  view.rows.forEach((row) => cellsOf(row, view).forEach((cell) => cell.setAttribute("tabindex", "-1")));
  view.body.addEventListener("click", (event) => at(event) && open(view, ...placeOf(at(event), view)));
  view.body.addEventListener("pointerover", (event) => {
    if (event.pointerType === "mouse" && at(event)) tell(view, at(event));
  });
  view.body.addEventListener("pointerleave", hush);
  view.body.addEventListener("focusout", hush);
  view.body.addEventListener("focusin", (event) => {
    if (!at(event)) return;
    focus(view, at(event));
    tell(view, at(event));
  });
  view.body.addEventListener("keydown", (event) => {
    if (!at(event)) return;
    if (STEPS[event.key]) move(view, at(event), STEPS[event.key]);
    else if (event.key === "Enter" || event.key === " ") open(view, ...placeOf(at(event), view));
    else return;
    event.preventDefault();
  });
}
addEventListener("scroll", hush, { capture: true, passive: true });
addEventListener("keydown", (event) => event.key === "Escape" && hush());

// ---- the popover

function hush() {
  popover.hidden = true;
  document.querySelector("[aria-describedby=popover]")?.removeAttribute("aria-describedby");
}

function tell(view, cell) {
  hush();
  const [row, column] = placeOf(cell, view);
  const number = numberAt(view, row, column);
  const told = facts(number, view.content.columns[column], view.content.notes);
  if (told.length === 0) return;
  popover.replaceChildren(make("p", {}, make("bdi", {}, titleAt(view, row, column))), list([...told, ...from(number)]));
  popover.append(make("p", {}, "Open it for its samples and all about its origin."));
  cell.setAttribute("aria-describedby", "popover");
  popover.hidden = false;
  const [box, own] = [cell.getBoundingClientRect(), popover.getBoundingClientRect()];
  const left = Math.max(8, Math.min(box.left, innerWidth - own.width - 8));
  const below = box.bottom + 6;
  const top = below + own.height < innerHeight ? below : Math.max(8, box.top - own.height - 6);
  popover.style.left = `${left}px`;
  popover.style.top = `${top}px`;
}

function from(number) {
  const cells = number.cells ?? [];
  if (cells.length === 0) return [];
  if (cells.length > 1) return [["Cells", `${cells.length}, ${origin(cells[0]).id} and others`]];
  const cell = origin(cells[0]);
  const run = data.origins.runs[cell.run];
  const told = run ? `: ${run.device} on ${run.host}, ${cell.finished}, qstudy ${run.qstudy}` : "";
  return [["Cell", cell.id + told]];
}
