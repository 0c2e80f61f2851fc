// A line over time with the band between lowest and highest, drawn as SVG. Arrow keys or the pointer read single values.

import { h } from "./dom.js";
import { axis, clock, t } from "./words.js";

const NS = "http://www.w3.org/2000/svg";
const [HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [150, 8, 8, 10, 20];

function s(tag, attributes = {}, ...children) {
  const element = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// `points`: [at, mean, low, high], by time. Where a point is missing the line breaks.
export function chart({ text, show, top }, { points, step, since, until }) {
  const reading = h("strong.reading");
  const figure = h("figure.card.chart", h("figcaption", h("span", text), reading));
  if (points.length === 0) {
    figure.append(h("p.meta", t("Nothing was measured in this time.")));
    return figure;
  }
  const last = points[points.length - 1];
  const low = Math.min(...points.map((point) => point[2]));
  const high = Math.max(...points.map((point) => point[3]));
  const said = t("{text}: now {now}, from {low} to {high}", { text, now: show(last[1]), low: show(low), high: show(high) });
  const svg = s("svg", { role: "img", tabindex: "0", "aria-label": said, height: HEIGHT });
  figure.append(svg, h("p.meta", t("{low} to {high}", { low: show(low), high: show(high) })));
  let place = points.length - 1;
  let scale = null;
  const mark = s("g", { class: "mark" });
  const rest = () => { reading.textContent = show(last[1]); mark.replaceChildren(); };
  const point = (index) => {
    place = Math.max(0, Math.min(points.length - 1, index));
    const [at, mean] = points[place];
    reading.textContent = `${show(mean)} · ${clock(at)}`;
    mark.replaceChildren(s("line", { x1: scale.x(at), x2: scale.x(at), y1: TOP, y2: HEIGHT - BOTTOM }), s("circle", { cx: scale.x(at), cy: scale.y(mean), r: 3.5 }));
  };
  const draw = (width) => {
    const room = (high - low) * 0.15 || Math.abs(high) * 0.1 || 1;
    const floor = top || (low >= 0 && low < 0.6 * high) ? 0 : low - room;
    const ceiling = top ?? high + room;
    scale = {
      x: (at) => LEFT + ((at - since) / (until - since)) * (width - LEFT - RIGHT),
      y: (value) => TOP + (1 - (value - floor) / (ceiling - floor)) * (HEIGHT - TOP - BOTTOM),
      at: (x) => since + ((x - LEFT) / (width - LEFT - RIGHT)) * (until - since),
    };
    svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    svg.replaceChildren(...grid(width, scale, since, until), ...runs(points, step).flatMap((run) => line(run, scale)), mark);
  };
  svg.addEventListener("pointermove", (event) => {
    const at = scale.at(event.clientX - svg.getBoundingClientRect().left);
    const next = points.findIndex((one) => one[0] >= at);
    point(next < 0 ? points.length - 1 : next > 0 && at - points[next - 1][0] < points[next][0] - at ? next - 1 : next);
  });
  svg.addEventListener("pointerleave", rest);
  svg.addEventListener("blur", rest);
  svg.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 }[event.key];
    if (!by) return;
    event.preventDefault();
    point(place + by);
  });
  new ResizeObserver(([entry]) => draw(Math.max(160, entry.contentRect.width))).observe(svg);
  draw(480);
  rest();
  return figure;
}

function runs(points, step) {
  const pauses = points.slice(1).map((point, index) => point[0] - points[index][0]).sort((a, b) => a - b);
  const usual = Math.max(step, pauses[pauses.length >> 1] ?? 0);
  const found = [[]];
  points.forEach((point, index) => {
    if (index > 0 && point[0] - points[index - 1][0] > 3.5 * usual) found.push([]);
    found[found.length - 1].push(point);
  });
  return found;
}

function line(run, { x, y }) {
  const path = (index) => run.map((point) => `${x(point[0]).toFixed(1)},${y(point[index]).toFixed(1)}`);
  if (run.length === 1) return [s("circle", { class: "line", cx: x(run[0][0]), cy: y(run[0][1]), r: 1.5 })];
  return [s("path", { class: "band", d: `M${path(3).join("L")}L${path(2).reverse().join("L")}Z` }), s("path", { class: "line", d: `M${path(1).join("L")}` })];
}

function grid(width, { x }, since, until) {
  const base = s("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM });
  const count = Math.max(2, Math.floor(width / 130));
  const times = Array.from({ length: count }, (_, index) => since + ((index + 0.5) / count) * (until - since));
  return [base, ...times.map((at) => s("text", { x: x(at), y: HEIGHT - 5, "text-anchor": "middle" }, axis(at, until - since)))];
}
