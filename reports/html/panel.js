// Everything about a number, with its samples; then the start of the page.

// ---- the panel: everything about a number, and its samples

let trail = [];

function open(view, row, column) {
  trail = [];
  show({ view, row, column });
  panel.showModal();
}

function follow(place) {
  trail.push(panel.place);
  show(place);
}

function show(place) {
  hush();
  panel.place = place;
  const { view, row, column } = place;
  const number = numberAt(view, row, column);
  const back = trail.length ? button("Back", () => show(trail.pop())) : null;
  const title = make("h2", { id: "panel-title" }, make("bdi", {}, titleAt(view, row, column)));
  const told = facts(number, view.content.columns[column], view.content.notes);
  const known = told.length ? list(told) : make("p", {}, "Nothing was measured here.");
  const cells = number.cells ?? [];
  panel.replaceChildren(
    make("header", {}, back, title, button("Close", () => panel.close())),
    make("div", { class: "columns" }, known, ...origins(number)),
    ...(cells.length > 1 ? [make("h3", {}, "Its cells"), links(cells)] : []),
    ...(cells.length === 1 && isKnown(number.metric) ? sampleSets(cells[0], number) : []),
  );
  panel.scrollTop = 0;
}

panel.addEventListener("click", (event) => event.target === panel && panel.close());
panel.addEventListener("close", () => {
  panel.place.view.current?.focus({ preventScroll: true });
  hush();
});

// Where a table shows a cell of the study by itself.
function find(cell) {
  for (const view of views) {
    for (const [row, content] of view.content.rows.entries()) {
      const column = content.cells.findIndex((values) => {
        const number = named(data.fields, values);
        return number.cells?.length === 1 && number.cells[0] === cell;
      });
      if (column >= 0) return { view, row, column };
    }
  }
  return null;
}

function links(cells) {
  const items = cells.map((cell) => {
    const { id, task } = origin(cell);
    const place = find(cell);
    const text = task ? `${task} (${id})` : id;
    return make("li", {}, place ? button(text, () => follow(place)) : make("code", {}, text));
  });
  return make("ul", { class: "links" }, ...items);
}

function origins(number) {
  const cells = number.cells ?? [];
  if (cells.length !== 1) return [];
  const cell = origin(cells[0]);
  const run = data.origins.runs[cell.run] ?? {};
  const pairs = [
    ["Cell", cell.id],
    ["Variant", cell.variant],
    ["Task", cell.task && cell.task + (isKnown(cell.shots) ? `, ${cell.shots}-shot` : "")],
    ["Failure", cell.failure],
    ["Finished", cell.finished],
    ["Took", isKnown(cell.seconds) ? `${cell.seconds} s` : null],
    ["Forward passes", cell.forwards],
    ["Attempts", cell.attempts],
    ["Device", run.device && `${run.device} on ${run.host}`],
    ["Program", run.qstudy && `qstudy ${run.qstudy}, git revision ${run.revision}`],
    ["Packages", run.packages],
    ["Seeds", run.seeds],
  ];
  const node = list(pairs.filter(([, text]) => isKnown(text)).map(([term, text]) => [term, String(text)]));
  node.classList.add("origin");
  const tell = (term, content) => node.append(make("dt", {}, term), make("dd", {}, content));
  const command = (verb, ...words) => make("code", {}, ["qstudy", verb, data.study, ...words].join(" "));
  tell("More", command("explain", cell.id));
  for (const reference of number.reference_cells ?? []) {
    const place = find(reference);
    const { id } = origin(reference);
    tell("Compared with", place ? button(id, () => follow(place)) : id);
    tell("All flips", command("compare", id, cell.id, "--flips"));
  }
  return [node];
}

const KINDS = {
  lost: "Lost: full precision scores more",
  gained: "Gained: full precision scores less",
  failing: "Failing",
};

function sampleSets(cell, number) {
  samples ??= island("samples");
  const found = samples.sets[`${origin(cell).id} ${data.metrics[number.metric]}`];
  const heading = make("h3", {}, "Samples");
  if (!found) {
    return [heading, make("p", {}, "None of this cell is in this page; the page's first lines say why.")];
  }
  const kinds = Object.keys(KINDS).filter((kind) => found[kind]);
  const opened = kinds.find((kind) => found[kind][1].length);
  const sets = kinds.map((kind) => {
    const [total, items] = found[kind];
    const title = kind === "failing" && isKnown(found.reference) ? "Failing, and not lost" : KINDS[kind];
    const shown = items.length < total ? `${total}, the first ${items.length} shown` : String(total);
    const nodes = items.map((item) => sample(item, isKnown(found.reference)));
    return make("details", kind === opened ? { open: "" } : {}, make("summary", {}, `${title} (${shown})`), ...nodes);
  });
  return [heading, ...sets];
}

const textOf = (place) => samples.texts[place];

function sample(item, isCompared) {
  const base = isKnown(item.base) ? `, full precision ${item.base}` : "";
  const title = make("h3", {}, `Item ${item.doc}: scores ${item.score}${base}`);
  const prompt = isKnown(item.prompt) ? text(textOf(item.prompt)) : null;
  const target = isKnown(item.target) ? make("p", {}, "Right answer: ", make("bdi", {}, textOf(item.target))) : null;
  const show = item.is_text ? responses : likelihoods;
  const answers = item.answers.length ? show(item, isCompared) : make("p", {}, "No response is stored.");
  return make("article", { class: "item" }, title, prompt, target, answers);
}

const text = (content) => make("pre", { dir: "auto", tabindex: "0" }, content);

function responses(item, isCompared) {
  const figure = (caption, place) => {
    const shown = isKnown(place) ? text(textOf(place)) : make("p", {}, "not stored");
    return make("figure", {}, make("figcaption", {}, caption), shown);
  };
  const pairs = item.answers.flatMap(([, own, base]) => [
    figure("Response", own),
    isCompared ? figure("Response at full precision", base) : null,
  ]);
  return make("div", { class: "answers" }, ...pairs.filter(Boolean));
}

function likelihoods(item, isCompared) {
  const columns = [1, 2].slice(0, isCompared ? 2 : 1);
  const best = columns.map((column) => Math.max(...item.answers.map((answer) => answer[column] ?? -Infinity)));
  const head = ["Choice", "Log-likelihood", "at full precision"].slice(0, columns.length + 1);
  const rows = item.answers.map((answer) => {
    const values = columns.map((column, place) => {
      const value = answer[column];
      const isHighest = isKnown(value) && value === best[place] && item.answers.length > 1;
      const told = isKnown(value) ? value.toFixed(3) + (isHighest ? " (highest)" : "") : "not computed";
      return make("td", isHighest ? { class: "highest" } : {}, told);
    });
    const choice = isKnown(answer[0]) ? textOf(answer[0]) : "";
    return make("tr", {}, make("th", { scope: "row" }, make("bdi", {}, choice)), ...values);
  });
  const titles = head.map((title) => make("th", { scope: "col" }, title));
  return make("table", {}, make("thead", {}, make("tr", {}, ...titles)), make("tbody", {}, ...rows));
}

// ---- light and dark

const THEMES = { system: "light dark", light: "light", dark: "dark" };
const theme = byId("theme");
let chosen = "system";
theme.addEventListener("click", () => {
  const names = Object.keys(THEMES);
  chosen = names[(names.indexOf(chosen) + 1) % names.length];
  document.documentElement.style.colorScheme = THEMES[chosen];
  theme.textContent = `Theme: ${chosen}`;
});

// ---- columns of labels stay in sight beside each other

function measure() {
  for (const view of views) {
    const [first] = view.table.tHead.rows;
    const group = first.querySelector(".group");
    if (group) view.table.style.setProperty("--first-line", `${group.getBoundingClientRect().height}px`);
    let left = 0;
    for (let place = 0; place < view.numLabels; place += 1) {
      view.table.style.setProperty(`--left-${place + 1}`, `${left}px`);
      left += first.cells[place].getBoundingClientRect().width;
    }
  }
}

for (const node of [form, theme, byId("directions")]) node.hidden = false;
form.reset();
filter();
addEventListener("resize", measure);
