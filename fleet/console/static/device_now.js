// How a device is: its alerts, figures, streams, engines, and what it reports of itself.

import { get, post } from "./api.js";
import { bytes, h, renew } from "./dom.js";
import { level, METRICS, shown } from "./figures.js";
import { act, button, fill, since, table, word } from "./parts.js";
import { RULES } from "./rules.js";
import { clock, number, span, t, told } from "./words.js";

const record = (value) => value !== null && typeof value === "object";
const STREAM = { __proto__: null, running: "good", finished: "plain", connecting: "warn", frozen: "bad", covered: "bad", failed: "bad" };

export function now(body, { name, app }) {
  const alerts = h("div");
  const tiles = h("div.tiles");
  const rest = h("div");
  body.append(alerts, tiles, rest);
  return {
    update(device) {
      fill(alerts, get(`alerts?state=firing&device=${encodeURIComponent(name)}`).then(({ alerts: list }) => list.map((alert) => firing(alert, app))));
      tiles.replaceChildren(device.telemetry_at ? h("p.meta", t("as of"), " ", since(device.telemetry_at)) : "", ...Object.keys(METRICS).filter((key) => typeof device.figures?.[key] === "number").map((key) => tile(key, device.figures)));
      renew(rest, ...sections(device));
    },
  };
}

function firing(alert, app) {
  const { text, todo } = RULES[alert.rule] ?? { text: alert.rule, todo: "" };
  const known = alert.acknowledged_by && h("p.meta", t("Acknowledged by {name}", { name: alert.acknowledged_by }));
  const ok = !known && app.can("operator") && button(t("Acknowledge"), (event) => act(event.target, () => post(`alerts/${alert.id}/acknowledge`), t("Acknowledged")));
  return h(`div.card.firing${alert.maintenance ? ".known" : ""}`, h("div.grow", h("p", h("strong", t(text)), alert.stream && ` · ${alert.stream}`, " · ", since(alert.since), " ", alert.maintenance && h("span.pill.plain", t("in maintenance: nobody is told"))), alert.detail && h("p", told(alert.detail)), todo && h("p.meta", t(todo)), known), ok);
}

const tile = (key, figures) => h(`div.card.tile.${level(figures, key) || "plain"}`, h("span.meta", t(METRICS[key].text)), h("strong", shown(figures, key)));

function sections({ state: presence, telemetry, reported, models, boot_id: boot, status_at: status }) {
  const sample = telemetry ?? {};
  const state = reported?.state ?? {};
  return [
    h("h2", t("Streams")), streams(sample.vision, presence === "online"),
    h("h2", t("Engines")), engines(state.engines),
    h("h2", t("Outbox")), outbox(sample.outbox),
    h("h2", t("This device")),
    h("div.card", facts({
      [t("Models")]: Object.entries(models ?? {}).map(([task, model]) => `${task}: ${model}`).join(", "),
      [t("Running since")]: sample.system?.uptime_s && span(sample.system.uptime_s),
      [t("Boot")]: boot, [t("Last birth")]: status && clock(status), [t("Settings")]: word(state.settings),
      [t("Not measured")]: Object.entries(sample.missing ?? {}).map(([key, why]) => `${key}: ${word(why)}`).join("; "),
    })),
  ];
}

function facts(record) {
  const rows = Object.entries(record).filter(([, value]) => value);
  return h("dl", rows.map(([key, value]) => [h("dt", key), h("dd", word(value))]));
}

// `fresh`: how they are; otherwise only how they were.
function streams(vision, fresh) {
  if (!vision) return h("p.empty", t("No telemetry of this device has come yet."));
  if (vision.state !== "up") return h("p.empty.bad", t("Its vision process does not answer: {reason}", { reason: word(vision.reason) }));
  const rate = (value) => (typeof value === "number" ? number(value) : "–");
  return table([t("Stream"), t("State"), t("Captured/s"), t("Processed/s"), t("Skipped/s"), t("Picture"), t("Failed"), t("Reconnects (1 h)"), t("Last frame")],
    [vision.streams ?? []].flat().filter(record).map((one) => [
      word(one.stream),
      [h(`span.pill.${(fresh && STREAM[one.state]) || "plain"}`, t(word(one.state))), one.code && h("div.meta", word(one.code)), one.detail && h("div.meta", told(word(one.detail)))],
      rate(one.captured_per_second) + (one.expected_per_second ? ` / ${rate(one.expected_per_second)}` : ""),
      rate(one.processed_per_second), rate(one.skipped_per_second),
      one.width ? `${word(one.width)}×${word(one.height)}` : "–", rate(one.failed), rate(one.reconnects_last_hour),
      typeof one.last_frame_at === "number" ? since(one.last_frame_at) : t("never"),
    ]), { label: t("Streams"), empty: t("No stream is set up.") });
}

function engines(list) {
  if (!Array.isArray(list)) return h("p.empty", list?.error ? word(list.error) : t("This device has not reported its engines yet."));
  if (list.length === 0) return h("p.empty", t("No engine is loaded."));
  return h("div.cards", list.filter(record).map(engine));
}

function engine({ model, backend, precision, why, parity, refused, speed, memory_mb: memory, built_at: built, identity }) {
  const [name, version] = word(model).split("@");
  const rows = {
    [t("Why this one")]: why,
    [t("Agreement")]: parity && t("with FP32, on {n} pictures", { n: word(parity.count) }),
    [t("Refused")]: Object.entries(refused ?? {}).map(([other, found]) => `${other}: ${word(found?.why ?? found)}`).join("; "),
    [t("Latency")]: speed && `${number(speed.p50_ms)} ms (99 %: ${number(speed.p99_ms)} ms)`,
    [t("Memory")]: memory && `${number(memory, 0)} MB`,
    [t("Runtime")]: identity?.backend_version, [t("Device")]: identity?.device,
    [t("Built")]: typeof built === "number" ? clock(built) : built, [t("Version")]: version,
  };
  return h("article.card", h("h3", name), h("p.chips", [backend, precision].filter(Boolean).map((text) => h("span.pill.plain", word(text)))), facts(rows));
}

function outbox(lanes) {
  if (!lanes) return h("p.empty", t("No telemetry of this device has come yet."));
  const count = (value) => (typeof value === "number" ? number(value, 0) : "–");
  return table([t("Lane"), t("Waiting"), t("Size"), t("Oldest"), t("Produced"), t("Settled"), t("Lost"), t("Alarm")],
    Object.entries(lanes).filter(([, lane]) => record(lane)).map(([lane, s]) => [lane, count(s.pending), typeof s.bytes === "number" ? bytes(s.bytes) : "–", s.oldest_age_s ? span(s.oldest_age_s) : "–", count(s.produced),
      count(s.settled), s.lost ? h("span.pill.bad", count(s.lost)) : "0", word(s.alarm) || "–"]), { label: t("Outbox"), empty: "–" });
}
