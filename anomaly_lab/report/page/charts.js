// Charts as SVG. Blue and vermilion of Okabe and Ito, told by shape as well; every chart says in words what it shows.
const WIDTH = 380, HEIGHT = 250, LEFT = 44, BOTTOM = 36, TOP = 8, RIGHT = 10;
const HUES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a7fbd", "#7f7f7f"];

function nice(low, high, count, least = 0) {
  const span = high - low || Math.abs(high) || 1;
  const step = Math.max(10 ** Math.floor(Math.log10(span / count)), least);
  const factor = [1, 2, 5, 10].find((f) => span / (step * f) <= count);
  const ticks = [];
  for (let i = Math.ceil(low / (step * factor)); i * step * factor <= high + span * 1e-9; i++) ticks.push(i * step * factor);
  return ticks;
}
function logTicks(low, high) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    for (const factor of high / low < 30 ? [1, 2, 5] : [1]) ticks.push(factor * 10 ** power);
  }
  const within = ticks.filter((value) => value >= low && value <= high);
  return within.length > 2 ? within : nice(low, high, 4).filter((value) => value > 0);
}
function scale(domain, range, log) {
  const [low, high] = log ? domain.map(Math.log10) : domain;
  const span = high - low || 1;
  return (value) => range[0] + ((log ? Math.log10(value) : value) - low) / span * (range[1] - range[0]);
}
function frame(options) {
  const width = options.width || WIDTH, height = options.height || HEIGHT, left = options.left || LEFT;
  const x = scale(options.x, [left, width - RIGHT], options.logX);
  const y = scale(options.y, [height - BOTTOM, TOP], options.logY);
  const node = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": options.label });
  const xTicks = options.xTicks || (options.logX ? logTicks(...options.x) : nice(...options.x, 5, options.wholeX ? 1 : 0));
  const yTicks = options.noY ? [] : options.logY ? logTicks(...options.y) : nice(...options.y, 5);
  for (const value of xTicks) {
    node.append(svg("line", { class: "axis", x1: x(value), x2: x(value), y1: TOP, y2: height - BOTTOM }),
      svg("text", { x: x(value), y: height - BOTTOM + 14, "text-anchor": "middle" }, options.xTicks ? value : tick(value)));
  }
  for (const value of yTicks) {
    node.append(svg("line", { class: "axis", x1: left, x2: width - RIGHT, y1: y(value), y2: y(value) }),
      svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, tick(value)));
  }
  node.append(svg("text", { x: (left + width - RIGHT) / 2, y: height - 4, "text-anchor": "middle" }, options.xName || ""));
  if (options.yName) {
    node.append(svg("text", { x: -(TOP + height - BOTTOM) / 2, y: 11, transform: "rotate(-90)", "text-anchor": "middle" }, options.yName));
  }
  return { node, x, y, width, height, left };
}
function figure(title, about, node, wide) {
  return el("figure", { class: wide ? "wide" : null }, el("figcaption", {}, el("strong", {}, title), about ? [" ", about] : null), node);
}
function path(points, x, y) {
  return points.map(([a, b], i) => `${i ? "L" : "M"}${x(a).toFixed(1)},${y(b).toFixed(1)}`).join("");
}

function curve(options) {
  const all = options.series.flatMap((series) => series.points);
  const domain = options.x || extent(all.map((point) => point[0]));
  const range = options.y || extent(all.map((point) => point[1]));
  const plot = frame({ ...options, x: domain, y: range[0] === range[1] ? [range[0] - 1, range[1] + 1] : range });
  options.series.forEach((series, i) => {
    plot.node.append(svg("path", {
      class: "line", d: path(series.points, plot.x, plot.y), stroke: series.color || HUES[i % HUES.length],
      "stroke-dasharray": series.dash || ["", "5 3", "2 2"][Math.floor(i / HUES.length) % 3] || null,
    }, svg("title", {}, series.name)));
  });
  const names = options.series.length > 1
    ? el("div", { class: "key quiet" }, options.series.map((series, i) => el("span", {},
      el("i", { style: `background:${series.color || HUES[i % HUES.length]}` }), series.name)))
    : null;
  const shown = figure(options.title, options.about, plot.node);
  if (names) shown.append(names);
  return { shown, plot };
}

// A measure against the number of good photos: a line a method, with the range of its seeds.
function photoCurve({ measure, lines, control }) {
  const name = MEASURE[measure].name, every = lines.flatMap((line) => line.points);
  const numbers = [...new Set(every.map(([n]) => n))].sort((a, b) => a - b), [least, most] = extent(numbers);
  const [low, high] = extent([...every.flatMap((point) => point.slice(1, 4)), ...control.map(([, value]) => value)]);
  const margin = (high - low || .1) * .06;
  const beside = (n, i) => n * (most / least) ** (.012 * (i - (lines.length - 1) / 2));  // so that no whisker hides another
  const series = lines.map((line, i) => ({ name: line.name, points: line.points.map(([n, mean]) => [beside(n, i), mean]) }));
  if (control.length) series.push({ name: "strongest control", points: control, color: "var(--quiet)", dash: "5 3" });
  const ticks = numbers.reduce((kept, n) => (kept.length && n < kept[kept.length - 1] * (most / least) ** .08 ? kept : [...kept, n]), []);
  const { shown, plot } = curve({ title: `${name}.`, series, logX: true, xTicks: ticks, left: 54, xName: "good photos", yName: name,
    x: [least / 1.1, most * 1.1], y: [low - margin, high + margin],
    label: `${name} against the number of good photos: ${[...lines, ...series.slice(lines.length)].map((line) =>
      `${line.name} ${line.points.map(([n, value]) => `${digits(value)} with ${n}`).join(", ")}`).join("; ")}` });
  lines.forEach((line, i) => {
    for (const [n, mean, lowest, highest, seeds] of line.points) {
      const x = plot.x(beside(n, i)), color = HUES[i % HUES.length];
      plot.node.append(svg("path", { d: `M${x},${plot.y(lowest)}V${plot.y(highest)}`, stroke: color, "stroke-width": 1.3 }),
        svg("circle", { cx: x, cy: plot.y(mean), r: 3.2, fill: color },
          svg("title", {}, `${line.name}, ${n} good photos: ${digits(mean)}, ${seeds === 1 ? "one seed" : `${seeds} seeds, ${digits(lowest)} to ${digits(highest)}`}`)));
    }
  });
  return shown;
}

// Every image as a point, a line a defect type, with the box of its quartiles.
function strip(groups, domain) {
  const line = 30, height = groups.length * line + BOTTOM + TOP, width = 800, left = 130;
  const plot = frame({ x: domain, y: [groups.length, 0], noY: true, width, height, left, xName: "decision score",
    label: `Scores by kind of image: ${groups.map((group) => `${group.name} median ${score(group.median)}`).join(", ")}` });
  const y = (i) => TOP + (i + .5) * line;
  const marks = [];
  groups.forEach((group, i) => {
    const name = group.name.length > 20 ? `${group.name.slice(0, 19)}…` : group.name;
    plot.node.append(svg("text", { class: "ink", x: left - 8, y: y(i) + 4, "text-anchor": "end" }, name, svg("title", {}, group.name)));
    group.images.forEach((image, k) => {
      const node = svg("path", {}, svg("title", {}, `${image.name}: ${score(image.value)}`));
      marks.push({ ...image, node, px: plot.x(image.value), py: y(i) + ((k * 7919) % 13 - 6) });
      plot.node.append(node);
    });
    const [low, first, middle, third, high] = group.box.map(plot.x);
    plot.node.append(svg("path", { class: "box", "stroke-width": 1.3,
      d: `M${low},${y(i)}H${first}M${third},${y(i)}H${high}M${first},${y(i) - 9}H${third}V${y(i) + 9}H${first}ZM${middle},${y(i) - 9}V${y(i) + 9}` }));
  });
  const cut = svg("line", { class: "cut", y1: TOP - 4, y2: height - BOTTOM });
  plot.node.append(cut);
  const update = (threshold) => {
    const at = Math.min(Math.max(plot.x(threshold), left), width - RIGHT);
    cut.setAttribute("x1", at);
    cut.setAttribute("x2", at);
    for (const mark of marks) {
      const wrong = (mark.value >= threshold) !== (mark.label === 1);
      mark.node.setAttribute("class", wrong ? "mistake" : "right");
      mark.node.setAttribute("d", wrong
        ? `M${mark.px - 3.2},${mark.py - 3.2}l6.4,6.4m0,-6.4l-6.4,6.4`
        : `M${mark.px - 2.7},${mark.py}a2.7,2.7 0 1 0 5.4,0a2.7,2.7 0 1 0 -5.4,0`);
    }
  };
  return { node: plot.node, update };
}

// Normal images up, abnormal images down, from one line.
function histogram(normal, abnormal, domain) {
  const bins = 30, [low, high] = domain, span = high - low || 1;
  const count = (values) => {
    const counts = new Array(bins).fill(0);
    for (const value of values) counts[Math.min(bins - 1, Math.max(0, Math.floor((value - low) / span * bins)))]++;
    return counts;
  };
  const up = count(normal), down = count(abnormal), top = Math.max(1, ...up), bottom = Math.max(1, ...down);
  const plot = frame({ x: domain, y: [-bottom, top], noY: true, left: 12, xName: "decision score",
    label: `Histogram of the scores: ${normal.length} normal images above the line, ${abnormal.length} abnormal ones below` });
  const bar = (counts, sign, color) => counts.forEach((n, i) => {
    if (!n) return;
    const x0 = plot.x(low + i * span / bins), x1 = plot.x(low + (i + 1) * span / bins);
    plot.node.append(svg("rect", { x: x0 + .5, width: Math.max(x1 - x0 - 1, .5), y: sign > 0 ? plot.y(n) : plot.y(0),
      height: Math.abs(plot.y(n) - plot.y(0)), fill: color }, svg("title", {}, `${n} images`)));
  });
  bar(up, 1, "var(--normal)");
  bar(down, -1, "var(--abnormal)");
  const cut = svg("line", { class: "cut", y1: TOP, y2: plot.height - BOTTOM });
  plot.node.append(cut);
  return { node: plot.node, update: (threshold) => {
    const at = Math.min(Math.max(plot.x(threshold), plot.left), plot.width - RIGHT);
    cut.setAttribute("x1", at);
    cut.setAttribute("x2", at);
  } };
}

const SHAPES = [
  (x, y, r) => `M${x - r},${y}a${r},${r} 0 1 0 ${2 * r},0a${r},${r} 0 1 0 ${-2 * r},0`,
  (x, y, r) => `M${x - r},${y - r}h${2 * r}v${2 * r}h${-2 * r}Z`,
  (x, y, r) => `M${x},${y - 1.2 * r}l${1.2 * r},${2.2 * r}h${-2.4 * r}Z`,
  (x, y, r) => `M${x},${y - 1.3 * r}l${1.3 * r},${1.3 * r}l${-1.3 * r},${1.3 * r}l${-1.3 * r},${-1.3 * r}Z`,
];
// groups: {name, points: [[x, y, title]], mean: [x, y]}
function scatter(groups, options) {
  const points = groups.flatMap((group) => group.points);
  const grow = ([low, high], log) => log ? [low / 1.3, high * 1.3] : [low - (high - low || 1) * .06, high + (high - low || 1) * .06];
  const plot = frame({ ...options, x: grow(extent(points.map((p) => p[0])), options.logX), y: grow(extent(points.map((p) => p[1])), false) });
  groups.forEach((group, i) => {
    const color = group.color || HUES[i % HUES.length], shape = SHAPES[(group.shape ?? Math.floor(i / HUES.length) + i) % SHAPES.length];
    for (const [x, y, title] of group.points) {
      plot.node.append(svg("path", { d: shape(plot.x(x), plot.y(y), 3.2), fill: color,
        class: group.mean ? "small-mark" : null, "fill-opacity": group.mean ? null : .7 }, svg("title", {}, title)));
    }
    if (group.mean) {
      plot.node.append(svg("path", { d: shape(plot.x(group.mean[0]), plot.y(group.mean[1]), 6.5), fill: color, stroke: "var(--paper)" },
        svg("title", {}, group.name)));
    }
  });
  const names = el("div", { class: "key quiet" }, groups.map((group, i) => el("span", {}, svgMark(group, i), group.name)));
  return el("div", {}, plot.node, names);
}
function svgMark(group, i) {
  const shape = SHAPES[(group.shape ?? Math.floor(i / HUES.length) + i) % SHAPES.length];
  return svg("svg", { viewBox: "0 0 14 14", width: 12, height: 12, "aria-hidden": "true", style: "display:inline-block;width:.85em;margin-right:.35em" },
    svg("path", { d: shape(7, 7, 5), fill: group.color || HUES[i % HUES.length] }));
}
