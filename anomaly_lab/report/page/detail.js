// One cell: its runs, their scores with a threshold to move, curves, pictures.

function openCell(place, seed) {
  view.open = place;
  drawMatrix();
  const [row, column] = place.split(",").map(Number);
  history.replaceState(null, "", addressOf(row, column));
  const runs = DATA.runs.filter((run) => run.row === row && run.column === column);
  drawDetail(runs, runs.find((run) => run.seed === seed) || runs[0]);
  const detail = byId("detail");
  detail.hidden = false;
  detail.focus({ preventScroll: true });
  detail.scrollIntoView({ block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}
function closeCell() {
  const place = view.open;
  view.open = null;
  byId("detail").hidden = true;
  history.replaceState(null, "", location.pathname + location.search);
  drawMatrix();
  const button = document.querySelector(`#matrix [data-place="${place}"]`);
  if (button) button.focus();
}
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select") && !byId("detail").contains(event.target);
  if (event.key === "Escape" && view.open && !typing) closeCell();
});

// The link of a cell names it as the page does, because numbers change with every run that is added.
function addressOf(row, column) {
  const { dataset, label } = DATA.columns[column];
  return `#${[DATA.rows[row].label, dataset, label].map(encodeURIComponent).join("/")}`;
}
function openAddress() {
  for (let row = 0; row < DATA.rows.length; row++) {
    for (let column = 0; column < DATA.columns.length; column++) {
      const filled = DATA.runs.some((run) => run.row === row && run.column === column);
      if (filled && addressOf(row, column) === location.hash) return openCell(`${row},${column}`) || true;
    }
  }
  return false;
}
window.addEventListener("hashchange", openAddress);

function drawDetail(runs, run) {
  const column = DATA.columns[run.column], row = DATA.rows[run.row];
  const images = run.scores.length ? column.images.map(([name, defect, label], i) => ({
    name, defect, label, value: number(run.decisions[i]), score: number(run.scores[i]) })) : [];
  const decision = images.length ? decisions(run, images) : null;
  byId("detail").replaceChildren(
    el("div", { class: "head" },
      el("div", {}, el("h2", {}, `${row.label} on ${column.dataset} ${column.label}`), el("p", { class: "quiet" }, run.shown)),
      el("div", { class: "bar" },
        segments("Seed", runs.map((other) => [other.id, other.seed]), run.id, (id) => keepingFocus(() => drawDetail(runs, runs.find((other) => other.id === id)))),
        el("button", { type: "button", onclick: closeCell }, "Close"))),
    DATA.runs.length > 1 ? el("div", { id: "in-words" }, run.verdict.map((line) => el("p", {}, line))) : "", keyFigures(run), run.trouble ? el("p", { class: "notice" }, run.trouble) : "",
    decision ? decision.node : el("p", { class: "quiet" }, "No scores of single images."),
    el("h3", {}, "Curves"), curves(run, images, decision),
    decision ? decision.gallery : "",
    tables(run));
  if (decision) decision.start();
}
const number = (value) => (value === null ? NaN : value);

function keyFigures(run) {
  const keys = ["image_auroc", "image_aupr", "pixel_aupro", "pixel_aupro_smoothed", "pixel_auroc", "fit_seconds", "predict_seconds_per_image"];
  return el("dl", { class: "figures" }, keys.filter((key) => key in run.metrics).map((key) => {
    const control = run.metrics[`control_${key}`];
    const about = key === "image_auroc" && known(run.metrics.image_auroc_low)
      ? `${digits(run.metrics.image_auroc_low)} – ${digits(run.metrics.image_auroc_high)}` : null;
    return el("div", {}, el("dt", {}, MEASURE[key] ? MEASURE[key].name : key),
      el("dd", { "data-metric": key, "data-value": run.metrics[key] }, digits(run.metrics[key], key),
        about ? el("small", {}, about) : null, known(control) ? el("small", {}, `control ${digits(control)}`) : null));
  }));
}

// The threshold: everything that depends on it is drawn anew when it moves.
function decisions(run, images) {
  const values = images.map((image) => image.value);
  const domain = span([...values, known(run.threshold) ? run.threshold : NaN]);
  const groups = byDefect(images);
  const points = strip(groups, domain);
  const bars = histogram(values.filter((_, i) => images[i].label === 0 && known(values[i])),
    values.filter((_, i) => images[i].label === 1 && known(values[i])), domain);
  const slider = el("input", { type: "range", id: "threshold", min: domain[0], max: domain[1],
    step: (domain[1] - domain[0]) / 1000, "aria-label": "threshold" });
  const exact = el("input", { type: "number", id: "threshold-value", step: "any", "aria-label": "threshold, exact" });
  const figures = el("dl", { class: "figures", id: "decision-figures" });
  const gallery = galleryOf(run, images);
  const listeners = [points.update, bars.update, gallery.update];
  const own = known(run.threshold) ? run.threshold : domain[1];
  const tested = "image_accuracy_normal" in run.metrics || "image_auroc" in run.metrics;  // else the photos are those held out
  const chosen = tested ? "A threshold that you choose here is chosen on the test images."
    : "It was set with these held-out photos, so what they show is no test of it.";
  let current = NaN;
  const update = (threshold, from) => {
    current = threshold;
    if (from !== slider) slider.value = String(threshold);
    if (from !== exact) exact.value = String(threshold);
    slider.setAttribute("aria-valuetext", score(threshold));
    figures.replaceChildren(...(tested ? decisionFigures(images, threshold) : []));
    listeners.forEach((listener) => listener(threshold));
  };
  slider.addEventListener("input", () => update(Number(slider.value), slider));
  exact.addEventListener("input", () => { if (exact.value !== "") update(Number(exact.value), exact); });
  // An empty field, or one that is no number, must not stand beside figures of another value.
  for (const left of ["change", "blur"]) exact.addEventListener(left, () => { if (exact.value === "") exact.value = String(current); });
  const back = el("button", { type: "button", id: "threshold-back", onclick: () => update(own) }, "run's threshold");
  const node = el("div", {},
    el("h3", {}, "Threshold"),
    el("p", { class: "quiet" }, `The run's threshold is ${score(own)}. ${chosen}`,
      run.later.length ? ` Later thresholds (${run.later.map((line) =>
        `${line.name} ${score(line.image)}`).join(", ")}) were not tested.` : ""),
    el("div", { class: "threshold" }, slider, exact, back), figures,
    el("div", { class: "charts" },
      figure("Every image.", el("span", { class: "key" }, el("span", {}, el("i", { style: "background:var(--normal)" }), "correct"),
        el("span", {}, "✕ wrong"), el("span", {}, "box: quartiles")), points.node, true),
      figure("Histogram.", el("span", { class: "key" }, el("span", {}, el("i", { style: "background:var(--normal)" }), "good, upwards"),
        el("span", {}, el("i", { style: "background:var(--abnormal)" }), "defective, downwards")), bars.node)));
  return { node, gallery: gallery.node, listeners, start: () => update(own), charts: node.lastElementChild };
}
function span(values) {
  const [low, high] = extent(values);
  const margin = (high - low || Math.abs(high) || 1) * .02;
  return [low - margin, high + margin];
}
function quantile(sortedValues, share) {
  const at = share * (sortedValues.length - 1), below = Math.floor(at);
  return sortedValues[below] + (at - below) * ((sortedValues[below + 1] ?? sortedValues[below]) - sortedValues[below]);
}
function byDefect(images) {
  const groups = new Map();
  for (const image of images) {
    if (!known(image.value)) continue;
    if (!groups.has(image.defect)) groups.set(image.defect, []);
    groups.get(image.defect).push(image);
  }
  return [...groups].map(([name, members]) => {
    const values = members.map((image) => image.value).sort((a, b) => a - b);
    const box = [0, .25, .5, .75, 1].map((share) => quantile(values, share));
    return { name, images: members, box, median: box[2], normal: members.every((image) => image.label === 0) };
  }).sort((a, b) => b.normal - a.normal || a.name.localeCompare(b.name));
}
function decisionFigures(images, threshold) {
  const count = (label, abnormal) => images.filter((image) => image.label === label && (image.value >= threshold) === abnormal).length;
  const [hit, miss, alarm, kept] = [count(1, true), count(1, false), count(0, true), count(0, false)];
  const share = (part, whole) => (whole ? part / whole : NaN);
  const [onGood, onBad] = [share(kept, kept + alarm), share(hit, hit + miss)];
  const list = [
    ["accuracy", share(hit + kept, hit + miss + alarm + kept), "all images", "accuracy"],
    ["on good images", onGood, `${alarm} false alarm${alarm === 1 ? "" : "s"} of ${kept + alarm}`, "image_accuracy_normal"],
    ["on defective images", onBad, `${miss} missed of ${hit + miss}`, "image_accuracy_abnormal"],
    ["balanced accuracy", (onGood + onBad) / 2, null, "image_balanced_accuracy"],
    ["precision", share(hit, hit + alarm), null, "image_precision"],
    ["recall", onBad, null, "image_recall"],
    ["F1", share(2 * hit, 2 * hit + alarm + miss), null, "image_f1"],
  ];
  return list.map(([name, value, about, key]) => el("div", {}, el("dt", {}, name),
    el("dd", { "data-decision": key, "data-value": known(value) ? value : "" }, digits(value), about ? el("small", {}, about) : null)));
}

// Curves: of images from the scores, of pixels from what the run has written.
function ranked(images) {
  const [normal, abnormal] = [0, 1].map((label) => images.filter((image) => image.label === label && !Number.isNaN(image.score)).length);
  const sortedImages = images.filter((image) => image.label >= 0 && !Number.isNaN(image.score)).sort((a, b) => b.score - a.score);
  const roc = [[0, 0]], pr = [];
  let [hits, alarms] = [0, 0];
  sortedImages.forEach((image, i) => {
    if (image.label === 1) hits++;
    else alarms++;
    if (i + 1 < sortedImages.length && sortedImages[i + 1].score === image.score) return;
    roc.push([alarms / normal, hits / abnormal]);
    pr.push([hits / abnormal, hits / (hits + alarms)]);
  });
  return normal && abnormal ? { roc, pr: [[0, pr[0][1]], ...pr] } : null;
}
function curves(run, images, decision) {
  const unit = { x: [0, 1], y: [0, 1] }, charts = [], ranks = images.length ? ranked(images) : null;
  const area = (key) => (key in run.metrics ? `area ${digits(run.metrics[key])}` : "");
  const add = (title, about, points, options) => {
    const chart = curve({ ...unit, title, about, series: [{ name: title, points, color: "var(--normal)" }], label: `${title} ${about}`, ...options });
    charts.push(chart.shown);
    return chart;
  };
  if (ranks) {
    const roc = add("ROC of images.", area("image_auroc"), ranks.roc, { xName: "false alarms", yName: "defects found" });
    roc.plot.node.prepend(svg("line", { class: "axis", x1: roc.plot.x(0), x2: roc.plot.x(1), y1: roc.plot.y(0), y2: roc.plot.y(1) }));
    const dot = svg("circle", { r: 4.5, fill: "var(--abnormal)", stroke: "var(--paper)" });
    roc.plot.node.append(dot);
    decision.listeners.push((threshold) => {
      const rate = (label) => {
        const all = images.filter((image) => image.label === label);
        return all.filter((image) => image.value >= threshold).length / all.length;
      };
      dot.setAttribute("cx", roc.plot.x(rate(0)));
      dot.setAttribute("cy", roc.plot.y(rate(1)));
    });
    add("Precision and recall of images.", area("image_aupr"), ranks.pr, { xName: "recall", yName: "precision" });
  }
  const written = run.curves || {};
  if (written.pixel_pro) add("PRO.", `${area("pixel_aupro")} up to 0.3`, written.pixel_pro, { x: [0, .3], xName: "false positive rate", yName: "per-region overlap" });
  if (written.pixel_roc) add("ROC of pixels.", area("pixel_auroc"), written.pixel_roc, { xName: "false positive rate", yName: "recall" });
  if (written.pixel_pr) add("Precision and recall of pixels.", area("pixel_aupr"), written.pixel_pr, { xName: "recall", yName: "precision" });
  if (run.losses.length) {
    const every = run.losses.flatMap((series) => series.points.map((point) => point[1]));
    const [low, high] = extent(every), logY = low > 0 && high / low > 20;
    charts.push(curve({ title: "Losses", about: "by epoch", series: run.losses, xName: "epoch", wholeX: true, logY, label: "Losses by epoch" }).shown);
  }
  if (run.features.length) charts.push(featureMap(run));
  return charts.length ? el("div", { class: "charts" }, charts) : el("p", { class: "quiet" }, "This run has written no curves.");
}
function featureMap(run) {
  const names = ["good", "defective"];
  const groups = [0, 1].map((label) => ({ name: names[label], shape: label ? 2 : 0, color: label ? "var(--abnormal)" : "var(--normal)",
    points: run.features.filter((point) => point[2] === label).map(([x, y, , defect]) => [x, y, defect]) })).filter((group) => group.points.length);
  return figure("Features of the test images,", run.featuresNote, scatter(groups, { label: "Map of the features", xName: "", yName: "" }));
}

// Pictures are decoded when the cell is opened, and by the browser when they come into view.
function galleryOf(run, images) {
  const text = byId(`thumbnails-${run.id}`);
  if (!text || !run.gallery.length) return { node: "", update: () => {} };
  const encoded = text.textContent.trim().split("\n");
  const cards = run.gallery.map((shot, i) => {
    const image = images[shot.image] || { name: shot.name, defect: "", label: -1, value: NaN };
    const verdict = el("span", { class: "verdict" });
    const node = el("div", { class: "shot" },
      el("img", { loading: "lazy", decoding: "async", width: shot.width, height: shot.height, src: `data:image/${shot.type};base64,${encoded[i]}`,
        alt: `${image.name}, ${image.defect}: ${shot.tiles.join(", ")}` }),
      el("p", { class: "tiles quiet" }, "from the left: ", shot.tiles.join(", ")),
      el("p", {}, verdict, ` ${image.defect} · ${image.name} · ${score(image.value)}`));
    return { node, image, verdict, kind: shot.kind };
  });
  const abouts = [el("p", { class: "quiet", id: "about-misses" }), el("p", { class: "quiet", id: "about-alarms" })];
  const update = (threshold) => {
    [1, 0].forEach((label, i) => {
      const of = images.filter((image) => image.label === label), wrong = of.filter((image) => (image.value >= threshold) !== (label === 1));
      abouts[i].textContent = `${wrong.length} of ${of.length} ${label ? "defective images missed" : "good images rejected"} at this threshold.`;
    });
    for (const { node, image, verdict } of cards) {
      if (image.label < 0) continue;
      const abnormal = image.value >= threshold, right = abnormal === (image.label === 1);
      node.className = `shot ${right ? "correct" : "error"}`;
      verdict.textContent = right ? (abnormal ? "found" : "passed") : abnormal ? "false alarm" : "missed";
    }
  };
  const part = (title, about, chosen) => chosen.length
    ? [el("h3", {}, title), about, el("div", { class: "gallery" }, chosen.map((card) => card.node))] : [];
  const rising = (a, b) => a.image.value - b.image.value;
  const misses = cards.filter((card) => card.kind === "lowest_defective").sort(rising);
  const alarms = cards.filter((card) => card.kind === "highest_good").sort((a, b) => rising(b, a));
  const others = cards.filter((card) => !misses.includes(card) && !alarms.includes(card));
  return { update, node: el("div", { id: "gallery" },
    part("Defective images with the lowest scores", abouts[0], misses),
    part("Good images with the highest scores", abouts[1], alarms),
    part(misses.length || alarms.length ? "Chosen at random" : "Pictures", "", others)) };
}

function tables(run) {
  const parts = [];
  if (run.defects.length) {
    parts.push(el("h3", {}, "By kind of defect"), el("div", { class: "scroll" }, tableOf(["kind", "images", "accuracy", "AUROC", "95 % interval"],
      run.defects.map((line) => [line.defect, Number(line.images), digits(Number(line.accuracy)), line.auroc ? digits(Number(line.auroc)) : "–",
        line.auroc ? `${digits(Number(line.auroc_low))} – ${digits(Number(line.auroc_high))}` : "–"]))));
  }
  const open = (title, rows) => el("details", {}, el("summary", {}, title), el("div", { class: "scroll" }, tableOf(["key", "value"], rows)));
  parts.push(open("All metrics", Object.entries(run.metrics).map(([key, value]) => [key, String(value)])));
  if (Object.keys(run.settings).length) parts.push(open("Settings", Object.entries(run.settings).map(([key, value]) => [key, plain(value)])));
  parts.push(open("Made with", Object.entries(run.environment).map(([key, value]) => [key, plain(value)])));
  return el("div", {}, parts);
}
const plain = (value) => (value === null || value === undefined ? "null" : typeof value === "object" ? JSON.stringify(value) : String(value));
