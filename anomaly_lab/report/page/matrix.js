// The matrix: what is shown, in which order, and a button in every cell that opens it.
const view = { level: null, measure: null, dataset: "", text: "", controls: true, published: true, sort: null, down: true, open: null };

function startView() {
  const wanted = ["image_auroc", "pixel_aupro", "image_balanced_accuracy"].find((key) => MEASURE[key]);
  view.measure = wanted || (DATA.measures[0] && DATA.measures[0].key);
  view.level = view.measure ? MEASURE[view.measure].level : null;
  if (DATA.photos.length) [view.sort, view.down] = ["name", false];  // rows by their number of photos
}
const matrix = () => DATA.matrices[view.measure];
const cellOf = (row, column) => matrix().cells[`${row},${column}`];
const meanOf = (row, name) => matrix().means[`${row},${name}`];

function filters() {
  if (!view.measure) return;
  const levels = [["image", "Images"], ["pixel", "Pixels"], ["cost", "Cost"]].filter(([key]) => DATA.measures.some((m) => m.level === key));
  const datasets = [...new Set(DATA.columns.map((column) => column.dataset))];
  const measures = DATA.measures.filter((m) => m.level === view.level).map((m) => [m.key, m.name]);
  const search = el("input", { type: "search", id: "filter", placeholder: "name or setting", value: view.text,
    oninput: () => { view.text = search.value; drawMatrix(); } });
  const check = (name, text) => {
    const box = el("input", { type: "checkbox", onchange: () => { view[name] = box.checked; drawMatrix(); } });
    box.checked = view[name];
    return el("label", { class: "check" }, box, text);
  };
  byId("filters").replaceChildren(...[
    segments("Level", levels, view.level, (level) => {
      view.level = level;
      view.measure = DATA.measures.find((m) => m.level === level).key;
      redraw();
    }),
    choice("Metric", measures, view.measure, (key) => { view.measure = key; redraw(); }),
    datasets.length > 1 ? choice("Data", [["", "all"], ...datasets.map((name) => [name, name])], view.dataset,
      (name) => { view.dataset = name; redraw(); }) : null,
    el("label", {}, "Methods", search),
    check("controls", "controls"),
    DATA.published.some((line) => line.measure === view.measure) ? check("published", "published figures") : null,
  ].filter(Boolean));
}

function shownColumns() {
  const there = new Set(Object.keys(matrix().cells).map((place) => Number(place.split(",")[1])));
  const columns = [];
  for (const dataset of new Set(DATA.columns.map((column) => column.dataset))) {
    if (view.dataset && view.dataset !== dataset) continue;
    const here = DATA.columns.map((column, i) => ({ ...column, id: i })).filter((column) => column.dataset === dataset && there.has(column.id));
    for (const column of here) {
      columns.push({ key: `c${column.id}`, label: column.label, dataset, column: column.id });
      const parts = here.filter((other) => column.folds && other.category === column.category && other.folds === column.folds);
      if (parts.length < 2 || parts.at(-1) !== column) continue;
      const mean = `${dataset}/${column.category}/${column.folds}`;
      columns.push({ key: `m${mean}`, label: `${column.category}, mean of ${column.folds} folds`, dataset, mean, over: "folds" });
    }
    const categories = new Set(here.map((column) => column.category)).size;
    if (categories > 1) columns.push({ key: `m${dataset}`, label: "mean", dataset, mean: dataset, over: "categories" });
  }
  return columns;
}
const cellAt = (row, column) => (column.mean ? meanOf(row, column.mean) : cellOf(row, column.column));
const valueAt = (row, column) => cellAt(row, column)?.mean ?? null;

// `whole`: whether nothing is missing in a mean; a mean of fewer categories stands after those of all, up and down.
function sorted(lines, columns, value, whole = () => true) {
  const column = columns.find((candidate) => candidate.key === view.sort);
  const sign = view.down ? -1 : 1;
  if (view.sort === "name" || !column) return [...lines].sort((a, b) => sign * a.label.localeCompare(b.label, "en", { numeric: true }));
  return [...lines].sort((a, b) => {
    const [one, two] = [value(a, column), value(b, column)];
    if (!known(one) || !known(two)) return known(one) ? -1 : known(two) ? 1 : 0;
    return whole(b, column) - whole(a, column) || sign * (one - two) || a.label.localeCompare(b.label);
  });
}

function drawMatrix() {
  const table = byId("matrix");
  if (!view.measure) {
    table.replaceChildren(el("caption", {}, "No run has a result yet."));
    return;
  }
  const measure = MEASURE[view.measure], columns = shownColumns();
  if (view.sort !== "name" && !columns.some((column) => column.key === view.sort)) {
    const filled = (column) => DATA.rows.filter((_, row) => valueAt(row, column) !== null).length;
    const fullest = [...columns].sort((a, b) => filled(b) - filled(a) || Number(!!b.mean) - Number(!!a.mean));
    view.sort = (fullest[0] || { key: "name" }).key;
    view.down = measure.better === "high";
  }
  const several = new Set(columns.map((column) => column.dataset)).size > 1 || columns.some((column) => column.mean);
  const words = view.text.toLowerCase().split(/\s+/).filter(Boolean);
  const matches = (text) => words.every((word) => text.toLowerCase().includes(word));
  let rows = DATA.rows.map((row, i) => ({ ...row, id: i }));
  rows = rows.filter((row) => matches(row.label) && columns.some((column) => valueAt(row.id, column) !== null));
  rows = sorted(rows, columns, (row, column) => valueAt(row.id, column), (row, column) => {
    const cell = cellAt(row.id, column);
    return cell.values >= cell.of;
  });
  const shades = shading(rows, columns, measure);

  const head = [];
  if (several) {
    const spans = [];
    for (const column of columns) {
      if (spans.length && spans[spans.length - 1].dataset === column.dataset) spans[spans.length - 1].span++;
      else spans.push({ dataset: column.dataset, span: 1 });
    }
    head.push(el("tr", { class: "datasets" }, el("td", {}), spans.map((span) => el("th", { class: "dataset", colspan: span.span, scope: "colgroup" }, span.dataset))));
  }
  const header = (key, label, name) => el("th", {
    scope: "col", class: name ? "name" : null,
    "aria-sort": view.sort === key ? (view.down ? "descending" : "ascending") : null,
  }, el("button", { type: "button", "data-sort": key, onclick: () => sortBy(key, measure) }, soft(label)));
  head.push(el("tr", {}, header("name", "method", true), columns.map((column) => header(column.key, column.label))));

  const line = (row) => el("tr", {}, rowHead(row), columns.map((column) => cellNode(row, column, measure, shades)));
  const methods = rows.filter((row) => !row.control).map(line);
  const nothing = words.length && !methods.length
    ? el("tr", { class: "quiet" }, el("th", { colspan: columns.length + 1 }, "No method matches")) : null;
  const bodies = [el("tbody", { id: "methods" }, methods, nothing)];
  if (view.controls) bodies.push(controlRows(columns, measure, matches, rows.filter((row) => row.control).map(line)));
  if (view.published) bodies.push(publishedRows(columns, measure, matches));
  table.replaceChildren(el("caption", { class: "skip" }, `${measure.name} of every method and category`), el("thead", {}, head), ...bodies.filter(Boolean));
  table.classList.toggle("dense", columns.length > 10);
  legend(measure, rows);
}

function sortBy(key, measure) {
  if (view.sort === key) view.down = !view.down;
  else [view.sort, view.down] = [key, key === "name" ? false : measure.better === "high"];
  drawMatrix();
  const button = [...document.querySelectorAll("#matrix [data-sort]")].find((node) => node.dataset.sort === key);
  if (button) button.focus();
}

function rowHead(row) {
  const apart = row.label.slice(row.method.length).replace(/^( · |, )/, "");
  return el("th", { scope: "row", title: row.label }, soft(row.method), apart ? el("small", {}, soft(apart)) : null);
}

// Lightness rises evenly with the value (OKLCH), in one hue: readable in black and white too.
function shading(rows, columns, measure) {
  const values = rows.flatMap((row) => columns.map((column) => valueAt(row.id, column))).filter(known);
  const [low, high] = extent(values);
  const style = getComputedStyle(document.documentElement);
  const from = Number(style.getPropertyValue("--shade-from")), to = Number(style.getPropertyValue("--shade-to"));
  return (value) => {
    if (high - low < 1e-9 || !known(value)) return null;
    const share = measure.better === "high" ? (value - low) / (high - low) : (high - value) / (high - low);
    return `--shade:${(from + share * (to - from)).toFixed(1)}%;--shade-c:${(.012 + .06 * share).toFixed(3)}`;
  };
}

function cellNode(row, column, measure, shades) {
  const cell = cellAt(row.id, column);
  if (!cell) return el("td", { class: column.mean ? "mean" : null }, el("span", { class: "quiet" }, "–"));
  const few = cell.values < cell.of ? `${cell.values} of ${cell.of}` : null;
  const spread = cell.std !== null ? `± ${digits(cell.std, measure.key)}`
    : cell.low !== null ? `${digits(cell.low, measure.key)} – ${digits(cell.high, measure.key)}` : null;
  const content = [el("span", { class: "figure" }, digits(cell.mean, measure.key)), el("small", {}, few || spread || " ")];
  const names = ["shade", cell.best ? "best" : null, cell.beaten ? "beaten" : null, column.mean ? "mean" : null].filter(Boolean).join(" ");
  const attributes = { class: names, style: shades(cell.mean), "data-value": cell.mean };
  if (column.mean) return el("td", attributes, el("span", { title: told(cell, measure, column.over) }, content));
  const place = `${row.id},${column.column}`;
  return el("td", attributes, el("button", {
    type: "button", class: "cell", "data-place": place, "aria-expanded": String(view.open === place), title: told(cell, measure),
    "aria-label": `${row.label}, ${column.label}: ${told(cell, measure)}. Open`, onclick: () => openCell(place),
  }, content));
}

function told(cell, measure, over) {
  const parts = [`${measure.name} ${digits(cell.mean, measure.key)}`];
  if (cell.std !== null) parts.push(`± ${digits(cell.std, measure.key)}`);
  if (over) parts.push(`mean of ${cell.values} ${over}${cell.values < cell.of ? ` of ${cell.of}` : ""}`);
  else parts.push(cell.values === 1 ? "one run" : `${cell.values} seeds`);
  if (cell.low !== null) {
    parts.push(`95 % interval ${digits(cell.low, measure.key)} to ${digits(cell.high, measure.key)} over ${cell.interval === "seeds" ? "seeds" : "test images"}`);
  }
  if (cell.best) parts.push("best of its column by more than noise");
  if (cell.control !== null) parts.push(`strongest control ${digits(cell.control, measure.key)}${cell.beaten ? ": not beaten" : ""}`);
  return parts.join(", ");
}

// `runs`: lines of runs of the controls themselves, method=control.
function controlRows(columns, measure, matches, runs) {
  const kinds = [...new Set(Object.keys(matrix().controls).map((place) => place.slice(0, place.indexOf(","))))];
  const value = (line, column) => matrix().controls[`${line.label},${column.mean ?? column.column}`] ?? null;
  const lines = sorted(kinds.map((kind) => ({ label: kind })).filter((line) => matches(`control ${line.label}`)), columns, value);
  if (!lines.length && !runs.length) return null;
  return el("tbody", { class: "part secondary", id: "controls" },
    el("tr", {}, el("th", { colspan: columns.length + 1, scope: "colgroup" }, "controls: trivial detectors on the same images")), runs,
    lines.map((line) => el("tr", {}, el("th", { scope: "row" }, line.label),
      columns.map((column) => el("td", { class: column.mean ? "mean" : null, "data-value": value(line, column) },
        el("span", {}, digits(value(line, column), measure.key)))))));
}

function publishedRows(columns, measure, matches) {
  const lines = new Map();
  for (const line of DATA.published) {
    if (line.measure !== measure.key) continue;
    const label = `${line.method} · ${line.source}`;
    if (!lines.has(label)) lines.set(label, { label, method: line.method, source: line.source, values: {} });
    lines.get(label).values[`${line.dataset} ${line.category}`] = line.value;
  }
  const place = (column) => `${DATA.columns[column.column].dataset} ${DATA.columns[column.column].category}`;
  const value = (line, column) => column.mean ? null : line.values[place(column)] ?? null;
  let there = [...lines.values()].filter((line) => matches(line.label) && columns.some((column) => value(line, column) !== null));
  there = sorted(there, columns, value);
  if (!there.length) return null;
  return el("tbody", { class: "part secondary", id: "published" },
    el("tr", {}, el("th", { colspan: columns.length + 1, scope: "colgroup" }, "published, on whole data sets")),
    there.map((line) => el("tr", {}, el("th", { scope: "row" }, line.method, el("small", {}, line.source)),
      columns.map((column) => el("td", { class: column.mean ? "mean" : null }, el("span", {}, digits(value(line, column), measure.key)))))));
}

function legend(measure, rows) {
  const cells = Object.values(matrix().cells);
  byId("legend").replaceChildren(...[
    `${measure.name}${measure.about ? `: ${measure.about}` : ""}. `,
    measure.better === "low" ? "Less is better. " : "",
    cells.some((cell) => cell.std !== null) ? "± standard deviation over seeds. " : "",
    cells.some((cell) => cell.best) ? "★ best of its column by more than noise. " : measure.level === "cost" || rows.length < 2 ? "" : "No value is best by more than noise. ",
    cells.some((cell) => cell.beaten) ? "▽ not above the strongest control. " : "",
    rows.length ? "A cell opens its runs." : "",
  ]);
}

// Arrow keys walk from cell to cell.
byId("matrix").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  const place = event.target.closest("td");
  if (!step || !place) return;
  let [row, index] = [place.parentElement, place.cellIndex];
  do {
    row = step[0] < 0 ? row.previousElementSibling : step[0] > 0 ? row.nextElementSibling : row;
    index += step[1];
    const target = row && row.cells[index];
    if (!target) return;
    const button = target.querySelector("button");
    if (button) {
      button.focus();
      event.preventDefault();
      return;
    }
  } while (true);
});
