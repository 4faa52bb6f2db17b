// What the pages share: elements, numbers and charts. Each page puts it inside its own function, which also has
// colorOf(line, precision).
const SVG = "http://www.w3.org/2000/svg";
const NONE = "–";
const $ = (id) => document.getElementById(id);
const PRECISIONS = ["float32", "float16", "int8", "int4", "int2", "binary"];
const SHAPES = {
  float32: (x, y, r) => `M${x - r},${y}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0Z`,
  float16: (x, y, r) => `M${x - r * .9},${y - r * .9}h${1.8 * r}v${1.8 * r}h${-1.8 * r}Z`,
  int8: (x, y, r) => `M${x},${y - 1.2 * r}l${1.15 * r},${2 * r}h${-2.3 * r}Z`,
  int4: (x, y, r) => `M${x},${y + 1.2 * r}l${1.15 * r},${-2 * r}h${-2.3 * r}Z`,
  int2: (x, y, r) => `M${x - .45 * r},${y - 1.2 * r}h${.9 * r}v${.75 * r}h${.75 * r}v${.9 * r}h${-.75 * r}v${.75 * r}h${-.9 * r}v${-.75 * r}h${-.75 * r}v${-.9 * r}h${.75 * r}Z`,
  binary: (x, y, r) => `M${x},${y - 1.3 * r}l${1.3 * r},${1.3 * r}l${-1.3 * r},${1.3 * r}l${-1.3 * r},${-1.3 * r}Z`,
};

// ---- elements and numbers; text from the data always goes through text nodes and attributes
function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}
const el = (tag, attributes = {}, ...children) => build(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => build(document.createElementNS(SVG, tag), attributes, children);
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const points = (value) => (isNumber(value) ? (100 * value).toFixed(2).replace("-0.00", "0.00") : NONE);
const percent = (value) => (isNumber(value) ? `${points(value)} %` : NONE);
const range = (low, high) => (isNumber(low) && isNumber(high) ? `[${points(low)}, ${points(high)}]` : "");
const whole = (value) => (isNumber(value) ? value.toLocaleString("en-US", { maximumFractionDigits: 0 }) : NONE);
const decimal = (value) => (isNumber(value) ? value.toLocaleString("en-US", { maximumFractionDigits: 2 }) : NONE);
const target = (value) => `${parseFloat((100 * value).toFixed(2))} %`;
const count = (number, noun) => `${whole(number)} ${noun}${number === 1 ? "" : "s"}`;
const metricName = (name) => name.replace(/^ndcg_at_/, "nDCG@").replace(/_at_/g, "@").replaceAll("_", " ");
const round = (value) => Math.round(value * 100) / 100;

// ---- drawing: a frame maps bytes and values to places; the large and the small charts share it
function ticksBetween(low, high, wanted) {
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const ticks = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index += 1) ticks.push(index * step);
  return { ticks, decimals: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}
function padded(values, share, least) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const extra = Math.max((high - low) * share, high - low < least ? least / 2 : 0);
  return [low - extra, high + extra];
}
function frameFor(entries, box, also = []) {
  const { width, height, left, right, top, bottom } = box;
  const [x0, x1] = padded(entries.map((entry) => Math.log2(entry.cell.bytes)), .04, 1);
  const heights = entries.flatMap((entry) => [entry.value, entry.low ?? entry.value, entry.high ?? entry.value]);
  const [y0, y1] = padded([...heights, ...also].map((value) => 100 * value), .06, 1);
  const sizes = [...new Set(entries.map((entry) => entry.cell.bytes))];
  return { ...box, x0, x1, y0, y1, sizes,
    x: (bytes) => round(left + ((Math.log2(bytes) - x0) / (x1 - x0)) * (width - left - right)),
    y: (value) => round(height - bottom - ((100 * value - y0) / (y1 - y0)) * (height - top - bottom)) };
}
function byteTicks(frame, room) {
  const powers = [];
  for (let power = Math.ceil(frame.x0); power <= frame.x1; power += 1) powers.push(power);
  if (powers.length < 2) return frame.sizes; // one size, most likely: name it
  const every = Math.max(1, Math.ceil((powers.length * room) / (frame.width - frame.left - frame.right)));
  return powers.filter((power) => power % every === 0).map((power) => 2 ** power);
}
function drawAxes(frame, rows, room, unit = "") {
  const group = svg("g", { "aria-hidden": "true" });
  const end = frame.width - frame.right;
  const floor = frame.height - frame.bottom;
  const { ticks, decimals } = ticksBetween(frame.y0, frame.y1, rows);
  for (const tick of ticks) {
    const y = frame.y(tick / 100);
    group.append(svg("path", { class: "grid", d: `M${frame.left},${y}H${end}` }),
      svg("text", { x: frame.left - 7, y: y + 4, "text-anchor": "end" }, tick.toFixed(decimals) + unit));
  }
  group.append(svg("path", { class: "axis", d: `M${frame.left},${floor}H${end}` }));
  for (const bytes of byteTicks(frame, room)) {
    group.append(svg("path", { class: "axis", d: `M${frame.x(bytes)},${floor}v5` }),
      svg("text", { x: frame.x(bytes), y: floor + 18, "text-anchor": "middle" }, whole(bytes)));
  }
  return group;
}
const shapeOf = (precision) => SHAPES[precision] || SHAPES.float32;
const pathThrough = (frame, series) =>
  series.map((entry, index) => `${index ? "L" : "M"}${frame.x(entry.cell.bytes)},${frame.y(entry.value)}`).join("");
function whisker(frame, entry) {
  if (entry.low === null || entry.high === null) return null;
  const x = frame.x(entry.cell.bytes);
  return svg("path", { class: "whisker", d: `M${x - 3},${frame.y(entry.low)}h6m-3,0V${frame.y(entry.high)}m-3,0h6` });
}
function swatch(line, precision) {
  const root = svg("svg", { class: "swatch", width: precision ? 16 : 46, height: 16, "aria-hidden": "true", style: `--c:${colorOf(line, precision)}` });
  if (!precision) root.append(svg("path", { class: "line", d: "M1,8H45", "stroke-dasharray": line.dash }));
  const hollow = line.role === "model" ? "" : " hollow";
  root.append(svg("path", { class: `mark${hollow}`, d: shapeOf(precision || "float32")(precision ? 8 : 23, precision ? 8.5 : 8, precision ? 4.5 : 3.8) }));
  return root;
}
