"use strict";
// What all parts share: the data, elements, numbers. Text from the data only ever becomes text nodes.
const DATA = JSON.parse(document.getElementById("data").textContent);
const MEASURE = Object.fromEntries(DATA.measures.map((measure) => [measure.key, measure]));

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) node.append(child);
  }
  return node;
}
const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
// A text that may break after the signs at which people read a pause; where it breaks is no part of the text.
const soft = (text) => String(text).split(/(?<=[_./])/).flatMap((part, i) => (i ? [el("wbr"), part] : [part]));
// What people call the state of a run: of one that is done, whether it counts.
const stateOf = (run) => (run.repeated ? "repeated" : run.state === "done" && run.trouble ? "damaged" : run.state);
const byId = (id) => document.getElementById(id);

const known = (value) => typeof value === "number" && Number.isFinite(value) && Math.abs(value) < 1e300;
function digits(value, key) {
  if (!known(value)) return "–";
  if (key && MEASURE[key] && MEASURE[key].level === "cost") {
    return Math.abs(value) >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
  }
  return value.toFixed(3).replace(/^(-?)0\./, "$1.");
}
function tick(value) {
  if (value !== 0 && (Math.abs(value) >= 1e5 || Math.abs(value) < 1e-3)) return value.toExponential(0).replace("e+", "e");
  return String(Number(value.toPrecision(3)));
}
const score = (value) => (known(value) ? String(Number(value.toPrecision(6))) : "–");
const extent = (values) => {
  const good = values.filter(known);
  return good.length ? [Math.min(...good), Math.max(...good)] : [0, 1];
};

function choice(label, options, value, change) {
  const select = el("select", { id: `choose-${label}`, onchange: () => change(select.value) },
    options.map(([key, text]) => el("option", { value: key, selected: key === value }, text)));
  select.value = value;
  return el("label", {}, label, select);
}
function segments(label, options, value, change) {
  const buttons = options.map(([key, text]) =>
    el("button", { type: "button", id: `${label}-${key}`, "aria-pressed": String(key === value), onclick: () => change(key) }, text));
  return el("fieldset", {}, el("legend", {}, label), el("div", { class: "segments" }, buttons));
}
// Draw anew what holds the focus, and give it back to the element of the same id.
function keepingFocus(draw) {
  const id = document.activeElement && document.activeElement.id;
  draw();
  if (id && byId(id) && document.activeElement !== byId(id)) byId(id).focus({ preventScroll: true });
}
function tableOf(headers, rows, caption) {
  const cell = (tag, content, number) => el(tag, { class: number ? "number" : null }, content);
  return el("table", { class: "plain" }, caption ? el("caption", { class: "quiet" }, caption) : null,
    el("thead", {}, el("tr", {}, headers.map((text) => el("th", { scope: "col" }, text)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((content, i) =>
      cell(i ? "td" : "th", content, typeof content === "number"))))));
}
