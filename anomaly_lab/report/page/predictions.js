// The photos of `predict`, highest score first, with a threshold to move.
const STEP = 60; // pictures drawn at a time
const shown = { run: DATA.runs[0].name, threshold: null, count: STEP };

const runOf = (name) => DATA.runs.find((run) => run.name === name);

function drawShots() {
  const run = runOf(shown.run), photos = run.photos;
  const abnormal = (photo) => photo.value >= shown.threshold;
  byId("counts").textContent = `${photos.filter(abnormal).length} of ${photos.length} photos are abnormal at this threshold`
    + (shown.threshold === run.threshold ? ", the run's own." : "; moving it here changes no file.");
  byId("shots").replaceChildren(...photos.slice(0, shown.count).map((photo) =>
    el("figure", { class: abnormal(photo) ? "abnormal" : null },
      el("figcaption", {}, el("strong", {}, abnormal(photo) ? "abnormal " : "normal "), score(photo.value), " ", soft(photo.name),
        photo.remark ? el("small", { class: "quiet" }, ` ${photo.remark}`) : null),
      photo.picture ? el("a", { href: photo.picture }, el("img", { src: photo.picture, loading: "lazy", alt: `${photo.name}: photo, map, outline` })) : null)));
  byId("more").hidden = shown.count >= photos.length;
}

function drawLine() {
  const run = runOf(shown.run), [low, high] = extent([...run.photos.map((photo) => photo.value), run.threshold]);
  const margin = (high - low || Math.abs(high) || 1) * .02;
  const exact = el("input", { type: "number", step: "any", "aria-label": "threshold, exact" });
  const slider = el("input", { type: "range", id: "threshold", min: low - margin, max: high + margin, step: (high - low + 2 * margin) / 1000, "aria-label": "threshold" });
  const set = (value) => { shown.threshold = value; exact.value = String(value); slider.value = String(value); drawShots(); };
  slider.addEventListener("input", () => set(Number(slider.value)));
  exact.addEventListener("change", () => set(exact.value === "" ? run.threshold : Number(exact.value)));
  byId("line").replaceChildren(slider, exact, el("button", { type: "button", onclick: () => set(run.threshold) }, "run's threshold"));
  byId("guarantee").textContent = run.guarantee;
  set(run.threshold);
}

if (DATA.runs.length > 1) {
  byId("filters").replaceChildren(choice("Run", DATA.runs.map((run) => [run.name, run.name]), shown.run, (name) => { Object.assign(shown, { run: name, count: STEP }); drawLine(); }));
}
const refused = DATA.unreadable, unreadable = byId("unreadable");
unreadable.hidden = !refused.length;
unreadable.open = refused.length <= 10;
unreadable.append(el("summary", {}, `${refused.length} file${refused.length > 1 ? "s" : ""} could not be read and ${refused.length > 1 ? "have" : "has"} no score`),
  el("ul", {}, refused.map(([name, reason]) => el("li", {}, soft(name), `: ${reason}`))));
byId("more").addEventListener("click", () => { shown.count += STEP; drawShots(); });
byId("about").textContent = `${DATA.about} · written ${DATA.written} by anomaly_lab ${DATA.version}`;
drawLine();
document.documentElement.dataset.ready = "yes";
