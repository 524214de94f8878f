// The page's script is this file, tables.js and panel.js, one after the other as one module. Without it the page still
// shows its tables. Whatever comes from the data is put in as text, never as markup.

const island = (id) => JSON.parse(document.getElementById(id).textContent);
const byId = (id) => document.getElementById(id);
const data = island("data");
const popover = byId("popover");
const panel = byId("panel");
let samples = null;

function make(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children.filter((child) => child !== null));
  return node;
}

function button(text, action) {
  const node = make("button", { type: "button" }, text);
  node.addEventListener("click", action);
  return node;
}

const isKnown = (value) => value !== null && value !== undefined;

function named(fields, values) {
  return Object.fromEntries(fields.map((field, place) => [field, values[place] ?? null]));
}

const origin = (place) => named(data.origins.fields, data.origins.cells[place]);

// ---- numbers as text

function decimal(value, column) {
  const text = column.percent ? value.toFixed(2) : String(Number(value.toPrecision(4)));
  return text === "-0.00" ? "0.00" : text;
}

const signed = (value, column) => (value > 0 ? "+" : "") + decimal(value, column);
const range = (low, high, column) => `${decimal(low, column)} to ${decimal(high, column)}`;
const probability = (value) => (value < 0.0001 ? "below 0.0001" : String(Number(value.toPrecision(2))));
const TESTS = { mcnemar: "exact McNemar test", permutation: "paired permutation test" };
const TERMS = { difference: "Difference", drop: "Change", recovery: "Recovery", published: "Published" };

// Pairs of a term and a text: all that the table knows of a number.
function facts(number, column, notes) {
  const told = [];
  const tell = (term, text, ...needs) => needs.every(isKnown) && told.push([term, text()]);
  const isScore = column.kind === "task" || column.kind === "average";
  const points = { percent: column.percent };
  const unit = !column.percent ? "" : column.kind === "difference" ? " points" : " %";
  tell(
    TERMS[column.kind] ?? "Score",
    () => {
      const value = column.kind === "difference" || column.kind === "drop" ? signed : decimal;
      const error = isKnown(number.stderr) ? ` ± ${decimal(number.stderr, column)}` : "";
      return value(number.value, column) + error + unit;
    },
    number.value,
  );
  tell("95 % interval", () => range(number.low, number.high, column) + unit, number.low, number.high);
  tell("Items", () => number.num_items.toLocaleString("en"), number.num_items);
  tell("Average over", () => `${number.covered} of ${number.parts}`, number.covered, number.parts);
  tell("Seeds", () => String(number.num_seeds), number.num_seeds);
  tell("Spread of seeds", () => `standard deviation ${decimal(number.spread, column)}`, number.spread);
  if (column.kind !== "difference") {
    tell(
      "Against full precision",
      () => {
        const around = isKnown(number.difference_low)
          ? `, 95 % ${range(number.difference_low, number.difference_high, points)}`
          : "";
        return signed(number.difference, points) + (column.percent ? " points" : "") + around;
      },
      number.difference,
    );
  }
  tell(
    "Test",
    () => {
      const corrected = isKnown(number.adjusted_p) ? `, corrected ${probability(number.adjusted_p)}` : "";
      return `p ${probability(number.p_value)}${corrected} (${TESTS[number.test] ?? number.test})`;
    },
    number.p_value,
  );
  tell(
    "Detectable",
    () => `${decimal(number.minimum_detectable, points)}${column.percent ? " points" : ""} or more`,
    number.minimum_detectable,
  );
  tell("Items that changed", () => `${number.num_lower} score less, ${number.num_higher} more`, number.num_lower);
  tell(
    "Severity",
    () => `${number.severity} (${signed(number.drop, { percent: true })} % against full precision)`,
    number.severity,
    number.drop,
  );
  if (isScore && isKnown(number.recovery)) told.push(["Recovery", `${decimal(number.recovery, { percent: true })} %`]);
  tell("Metric", () => data.metrics[number.metric].replace(/,none$/, "").replace(",", ", filter "), number.metric);
  for (const note of number.notes ?? []) told.push([`Note ${note}`, notes[note]]);
  return told;
}

function list(pairs) {
  const rows = pairs.flatMap(([term, text]) => [make("dt", {}, term), make("dd", {}, make("bdi", {}, text))]);
  return make("dl", {}, ...rows);
}
