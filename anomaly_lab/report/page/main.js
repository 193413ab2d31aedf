// The other parts of the page, and the start.
const costs = { x: null };

function drawCosts() {
  const section = byId("costs"), measures = DATA.measures.filter((m) => m.level === "cost");
  section.hidden = !measures.length || !view.measure || DATA.runs.filter((run) => run.state === "done").length < 2;
  if (section.hidden) return;
  const y = MEASURE[view.measure].level === "cost" ? (MEASURE.image_auroc || DATA.measures[0]).key : view.measure;
  costs.x = costs.x || (MEASURE.predict_seconds_per_image ? "predict_seconds_per_image" : measures[0].key);
  byId("cost-filters").replaceChildren(choice("Cost", measures.map((m) => [m.key, m.name]), costs.x, (key) => { costs.x = key; keepingFocus(drawCosts); }));
  const shown = new Set(DATA.columns.map((column, i) => (!view.dataset || column.dataset === view.dataset ? i : -1)));
  const groups = DATA.rows.map((row, i) => {
    const points = [];
    for (const [place, cell] of Object.entries(DATA.matrices[y].cells)) {
      const [at, column] = place.split(",").map(Number), cost = DATA.matrices[costs.x].cells[place];
      if (at === i && shown.has(column) && cost && cost.mean > 0) {
        points.push([cost.mean, cell.mean, `${row.label}, ${DATA.columns[column].label}: ${digits(cell.mean, y)}, ${digits(cost.mean, costs.x)}`]);
      }
    }
    const mean = (k) => points.reduce((sum, point) => sum + (k ? point[1] : Math.log(point[0])), 0) / points.length;
    return { name: row.label, points, mean: [Math.exp(mean(0)), mean(1)] };
  }).filter((group) => group.points.length);
  byId("cost-plot").replaceChildren(groups.length ? figure(`${MEASURE[y].name}`,
    `against ${MEASURE[costs.x].name}; large: the mean of a method over the categories shown, small: its categories`,
    scatter(groups, { logX: true, xName: MEASURE[costs.x].name, yName: MEASURE[y].name, width: 800, height: 340,
      label: `${MEASURE[y].name} against ${MEASURE[costs.x].name}: ${groups.map((g) => `${g.name} ${digits(g.mean[1], y)} at ${digits(g.mean[0], costs.x)}`).join("; ")}` }))
    : el("p", { class: "quiet" }, "Nothing to show for this choice."));
}

const photos = { column: null };
function drawPhotos() {
  const columns = [...new Set(DATA.photos.map((entry) => entry.column))];
  byId("photos").hidden = !columns.length;
  if (!columns.length) return;
  photos.column ??= columns[0];
  byId("photo-filters").replaceChildren(...(columns.length > 1 ? [choice("Category", columns.map((i) => [String(i), DATA.columns[i].label]),
    String(photos.column), (i) => { photos.column = Number(i); keepingFocus(drawPhotos); })] : []));
  byId("photo-plots").replaceChildren(...DATA.photos.filter((entry) => entry.column === photos.column).map(photoCurve));
}

const pair = [null, null];
function drawDifferences() {
  const runs = DATA.runs.filter((run) => Object.keys(run.settings).length);
  byId("differences").hidden = runs.length < 2;
  if (runs.length < 2) return;
  pair[0] ??= runs[0].id;
  pair[1] ??= runs[1].id;
  const options = runs.map((run) => [String(run.id), run.shown]);
  byId("difference-filters").replaceChildren(...[0, 1].map((i) =>
    choice(i ? "and" : "Run", options, String(pair[i]), (id) => { pair[i] = Number(id); keepingFocus(drawDifferences); })));
  const [one, other] = pair.map((id) => DATA.runs.find((run) => run.id === id));
  const keys = [...new Set([...Object.keys(one.settings), ...Object.keys(other.settings)])];
  const text = (run, key) => (key in run.settings ? plain(run.settings[key]) : "–");
  const rows = keys.filter((key) => text(one, key) !== text(other, key)).map((key) => [soft(key), soft(text(one, key)), soft(text(other, key))]);
  byId("difference-table").replaceChildren(rows.length ? tableOf(["setting", soft(one.shown), soft(other.shown)], rows)
    : el("p", { class: "quiet" }, "The same settings."));
}

function drawRuns() {
  const line = (run) => [el("span", { class: `state ${stateOf(run)}` }, stateOf(run)), soft(run.shown), run.trouble ? soft(run.trouble) : "–"];
  const others = DATA.runs.filter((run) => stateOf(run) !== "done"), done = DATA.runs.filter((run) => stateOf(run) === "done");
  byId("run-tables").replaceChildren(...[
    others.length ? el("div", { class: "scroll", id: "other-runs" }, tableOf(["state", "run", "why"], others.map(line))) : null,
    done.length ? el("details", { open: !others.length && done.length < 12 }, el("summary", {}, `${done.length} done`),
      el("div", { class: "scroll" }, tableOf(["state", "run", "commit"], done.map((run) => [...line(run).slice(0, 2), plain(run.environment.git)])))) : null,
  ].filter(Boolean));
}

function drawRules() {
  byId("rule-list").replaceChildren(...DATA.rules.map((rule) => el("li", {}, rule)));
  const sources = [...new Set(DATA.published.map((line) => line.source))];
  if (sources.length) {
    byId("sources").replaceChildren(el("h3", {}, "Published figures"), el("ul", {}, sources.map((source) => {
      const note = DATA.published.find((line) => line.source === source).note;
      return el("li", {}, `${source}${note ? `: ${note}` : ""}`);
    })));
  }
}

function redraw() {
  keepingFocus(() => {
    filters();
    drawMatrix();
    drawCosts();
  });
}

const counts = {};
for (const run of DATA.runs) counts[stateOf(run)] = (counts[stateOf(run)] || 0) + 1;
byId("about").textContent = `${Object.entries(counts).map(([state, n]) => `${n} ${state}`).join(", ")} · written ${DATA.written} by anomaly_lab ${DATA.version}`;
startView();
redraw();
drawPhotos();
drawDifferences();
drawRuns();
drawRules();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawMatrix);
const finished = DATA.runs.filter((run) => run.row !== null);
if (!openAddress() && finished.length === 1) {
  openCell(`${finished[0].row},${finished[0].column}`);
  scrollTo(0, 0);
}
document.documentElement.dataset.ready = "yes";
