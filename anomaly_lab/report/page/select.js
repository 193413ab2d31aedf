// The page of `select`: the answer, the ranking with its intervals, quality against seconds, pictures.
const MEASURES = Object.keys(DATA.names).filter((name) => DATA.ranking.some((row) => row.figures[name]));
const FIRST = MEASURES[0];
const share = (value) => (known(value) ? `${Math.round(100 * value)} %` : "–");
const range = (figure) => `${digits(figure.low)} to ${digits(figure.high)}`;

function whisker(figure, [low, high], color) {
  const x = scale([low, high], [4, 116]), { value } = figure;
  return svg("svg", { viewBox: "0 0 120 14", class: "whisker", role: "img", "aria-label": `${digits(value)}, 95 % interval ${range(figure)}` },
    svg("line", { class: "axis", x1: 4, x2: 116, y1: 7, y2: 7 }),
    svg("line", { x1: x(figure.low), x2: Math.max(x(figure.high), x(figure.low) + 1), y1: 7, y2: 7, stroke: color, "stroke-width": 3 }),
    svg("circle", { cx: x(value), cy: 7, r: 4, fill: color }));
}
function figureCell(row, name, domain) {
  const figure = row.figures[name];
  if (!figure) return "–";
  return [whisker(figure, domain, row.control ? "var(--quiet)" : "var(--normal)"),
    el("span", {}, `${digits(figure.value)} `, el("span", { class: "quiet" }, `(${range(figure)})`))];
}
// Less than 0 for a control that is above all methods; all three are 0 of the highest method itself.
function behindCell(behind) {
  if (!behind || !(behind.value || behind.low || behind.high)) return "–";
  return `${digits(behind.value)} (${range(behind)})`;
}
function markOf(row, place) {
  if (row.control) return "control";
  const flag = DATA.ranking.some((other) => other.control) && !row.beats_control ? "▽ " : "";
  return flag + (place === 0 ? "first" : row.tied ? "tied with it" : "");
}
function drawRanking() {
  const domains = Object.fromEntries(MEASURES.map((name) => {
    const low = Math.min(...DATA.ranking.filter((row) => row.figures[name]).map((row) => row.figures[name].low));
    return [name, [Math.max(0, Math.floor(10 * low) / 10), 1]];
  }));
  const headers = ["method", ...MEASURES.flatMap((name) => [`${DATA.names[name]}, from ${digits(domains[name][0])} to 1`, "behind the highest method"]),
    "painted defects found", "alarms at small changes", "s a photo", "minutes", ""];
  const rows = DATA.ranking.map((row, place) => [soft(row.name),
    ...MEASURES.flatMap((name) => {
      return [figureCell(row, name, domains[name]), behindCell(row.behind[name])];
    }),
    share(row.found), share(row.alarms), known(row.seconds) ? Number(row.seconds.toPrecision(2)) : "–",
    known(row.minutes) ? Number(row.minutes.toFixed(1)) : "–", markOf(row, place)]);
  const table = tableOf(headers, rows);
  [...table.tBodies[0].rows].forEach((line, i) => line.classList.toggle("control", DATA.ranking[i].control));
  byId("ranking").replaceChildren(table);
  const painted = DATA.kinds.length ? ` Painted defects: ${DATA.kinds.join(", ")}; found and alarms at the highest score of an unchanged held-out photo.` : "";
  byId("legend").textContent = "In parentheses: 95 % intervals, of 2000 paired resamples of the photos where these are not all alike. Two methods are tied unless the interval "
    + `of their difference leaves zero. ▽ no figure is above the strongest control beyond chance.${painted}`;
}
function drawSpeed() {
  const groups = DATA.ranking.filter((row) => row.figures[FIRST] && row.seconds > 0).map((row) => {
    const value = row.figures[FIRST].value, text = `${row.name}: ${digits(value)}, ${Number(row.seconds.toPrecision(2))} s a photo`;
    return { name: row.name, points: [[row.seconds, value, text]], mean: [row.seconds, value], color: row.control ? "#7f7f7f" : undefined };
  });
  byId("speed").replaceChildren(groups.length ? figure(DATA.names[FIRST], "against seconds a photo, without reading it; controls in gray",
    scatter(groups, { logX: true, xName: "seconds a photo", yName: DATA.names[FIRST], width: 800, height: 320,
      label: groups.map((group) => group.points[0][2]).join("; ") })) : el("p", { class: "quiet" }, "No times were measured."));
}
function drawPictures() {
  const { title, note, side_by_side: sideBySide, groups } = DATA.pictures;
  const shotOf = (shot) => el("figure", {},
    el("img", { src: shot.source, width: shot.width, height: shot.height, loading: "lazy", alt: shot.alt }),
    el("figcaption", {}, el("strong", {}, soft(shot.name)), " ", shot.note));
  byId("pictures").hidden = !groups.length && !note;
  byId("pictures-title").textContent = title;
  byId("pictures-note").textContent = note;
  byId("groups").className = sideBySide ? "" : "columns";
  byId("groups").replaceChildren(...groups.map((group) => el("div", {}, el("h3", {}, soft(group.title)),
    group.note ? el("p", { class: "quiet" }, group.note) : null, el("div", { class: sideBySide ? "columns" : null }, group.shots.map(shotOf)))));
}

byId("about").textContent = `written ${DATA.written} by anomaly_lab ${DATA.version}`;
byId("answer").replaceChildren(...DATA.sentences.map((text, i) => el("p", { class: i ? null : "lead" }, text)));
const { good, held_out: heldOut, test_good: testGood, defective, minutes } = DATA.photos;
byId("basis").textContent = `${good} good photos, ${heldOut} of them held out; ${testGood} good and ${defective} defective photos for the test; `
  + `${minutes.toFixed(1)} minutes. Ranked by ${DATA.basis === "labels" ? "labelled test photos" : "painted defects: this ranks and does not measure"}.`;
drawRanking();
drawSpeed();
drawPictures();
byId("others").hidden = !DATA.others.length;
byId("other-table").replaceChildren(tableOf(["method", "state", "why"], DATA.others.map((other) => [soft(other.name), other.state, other.note])));
byId("commands").replaceChildren(...DATA.commands.map((line) => el("div", {}, el("p", {}, line.what), el("pre", {}, line.command))));
document.documentElement.dataset.ready = "yes";
