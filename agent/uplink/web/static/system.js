// How the device is doing: streams, engines, outbox, host.

import { get } from "./api.js";
import { byId, bytes, h, repeated } from "./dom.js";
import { STATE } from "./live.js";
import { ago, clock, count, span } from "./words.js";

const REFRESH_MS = 3000;
export const awake = repeated(refresh, REFRESH_MS);

async function refresh() {
  await Promise.all([fill("health", "streams", streams), fill("engines", "engines", engines), fill("outbox", "outbox", outbox), fill("host", "telemetry", host)]);
}

async function fill(id, path, draw) {
  try {
    byId(id).replaceChildren(...[draw(await get(path))].flat());
  } catch (error) {
    byId(id).replaceChildren(h("p.empty", `${error.message}.`));
  }
}

function table(head, rows) {
  return h("div.card.scroll", h("table",
    h("thead", h("tr", head.map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", rows.map(([first, ...rest]) => h("tr", h("th", { scope: "row" }, first), rest.map((cell) => h("td", cell)))))));
}

function streams(list) {
  if (list.length === 0) return h("p.empty", "No stream is configured.");
  const rate = (value) => value.toFixed(1);
  return table(["Stream", "State", "Captured/s", "Processed/s", "Skipped/s", "Picture", "Failed", "Reconnects (1 h)", "Stalls (1 h)", "Last frame"],
    list.map((s) => [
      s.stream,
      [h(`span.pill.${STATE[s.state] || "plain"}`, s.state), s.code && h("div.meta", s.code), s.detail && h("div.meta", s.detail)],
      rate(s.captured_per_second) + (s.expected_per_second ? ` of ${rate(s.expected_per_second)}` : ""),
      rate(s.processed_per_second), rate(s.skipped_per_second),
      [s.width ? `${s.width}×${s.height}` : "–", h("div.meta", s.quality && `${s.quality} connection`)],
      s.failed, s.reconnects_last_hour, s.stalls_last_hour,
      s.last_frame_at ? ago(s.last_frame_at) : "never",
    ]));
}

function engines(list) {
  if (list.length === 0) return h("p.empty", "No engine is loaded yet.");
  return list.map(engine);
}

function engine({ model, backend, precision, why, identity = {}, parity, refused = {}, speed, memory_mb: memory, built_at: built }) {
  const [name, version] = model.split("@");
  const rows = {
    Why: why || (parity ? `${precision} agrees with FP32 as closely as the model's card asks` : "the reference precision"),
    Parity: parity ? agreement(parity) : null,
    Refused: Object.entries(refused).map(([other, found]) => `${other}: ${found.why}`).join("; "),
    Latency: speed && `${milliseconds(speed.p50_ms)} (90 %: ${milliseconds(speed.p90_ms)}, 99 %: ${milliseconds(speed.p99_ms)})`,
    Throughput: speed && `${speed.per_second.toFixed(0)} per second, ${speed.parallel} at once`,
    Memory: memory && `${memory.toFixed(0)} MB`,
    Runtime: identity.backend_version?.split("-")[0],
    Device: identity.device?.split(",")[0],
    Built: built && new Date(built).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }),
    Version: version,
  };
  return h("article.card", h("h3", name), h("p.chips", [backend, precision].map((text) => h("span.pill.plain", text))), facts(rows));
}

const milliseconds = (value) => `${value.toFixed(1)} ms`;

function agreement({ count: pictures, score, overlap, distance }) {
  const parts = [
    score !== null && `scores within ${score.toFixed(3)}`,
    overlap !== null && `boxes overlap by ${(overlap * 100).toFixed(1)} %`,
    distance !== null && `templates within ${distance.toFixed(3)}`,
  ].filter(Boolean);
  return `${parts.join(", ")} of FP32 on ${count(pictures, "picture")}`;
}

function facts(record) {
  const rows = Object.entries(record).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h("dl", rows.map(([key, value]) => [h("dt", words(key)), h("dd", text(key, value))]));
}

const words = (key) => key.replace(/_(bytes|percent|s|c)$/, "").replaceAll("_", " ").replace(/\bcpu\b/, "CPU").replace(/^rss$/, "memory").replace(/^./, (first) => first.toUpperCase());

function text(key, value) {
  if (Array.isArray(value)) return value.map((item) => text(key, item)).join(", ");
  if (value !== null && typeof value === "object") return Object.entries(value).map(([name, inner]) => `${words(name)} ${text(name, inner)}`).join(" · ");
  if (key === "pid") return String(value);
  if (key.endsWith("_bytes")) return bytes(value);
  if (key.endsWith("_percent")) return `${value.toFixed(0)} %`;
  if (key.endsWith("_at") && typeof value === "number") return clock(value);
  if (key.endsWith("_s") && typeof value === "number") return span(value);
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "number") return Number.isInteger(value) ? value.toLocaleString() : Number(value.toPrecision(4)).toString();
  return /^[0-9a-f]{40,}$/.test(value) ? `${value.slice(0, 12)}…` : String(value);
}

function outbox({ lanes, broker }) {
  const rows = Object.entries(lanes).map(([lane, s]) => [lane, s.pending, bytes(s.bytes ?? 0), s.oldest_age_s ? span(s.oldest_age_s) : "–", s.produced, s.settled,
    s.lost ? h("span.pill.bad", s.lost) : 0, s.alarm || "–"]);
  return [h("p.hint", broker.text), table(["Lane", "Waiting", "Size", "Oldest", "Produced", "Settled", "Lost", "Alarm"], rows)];
}

function host({ system, jetson, missing }) {
  if (!system) return h("p.empty", "The first telemetry is not there yet.");
  const groups = Object.entries({ ...system, ...jetson });
  const isGroup = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
  const plain = Object.fromEntries(groups.filter(([, value]) => !isGroup(value)));
  const cards = groups.filter(([, value]) => isGroup(value)).map(([key, value]) => h("article.card", h("h3", words(key)), facts(value)));
  const gaps = Object.entries(missing ?? {}).map(([key, why]) => h("p.meta", `${words(key.split(".").pop())}: ${why}`));
  return [h("article.card", h("h3", "Host"), facts(plain)), ...cards, gaps.length && h("article.card", h("h3", "Not measured"), gaps)].filter(Boolean);
}
