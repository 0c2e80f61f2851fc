// What a device measures, as the store keeps it: flat metrics, `fps.<stream>` and `latency_ms.<model>` among them.

import { bytes } from "./dom.js";
import { number, span, t } from "./words.js";

export const METRICS = {
  temperature_c: { text: "Temperature", show: (value) => `${number(value)} °C`, warn: 75, bad: 85 },
  cpu_percent: { text: "Processor", show: (value) => `${number(value, 0)} %`, top: 100 },
  gpu_percent: { text: "Graphics processor", show: (value) => `${number(value, 0)} %`, top: 100 },
  memory_percent: { text: "Memory", show: (value) => `${number(value, 0)} %`, top: 100, warn: 85, bad: 95 },
  disk_free_bytes: { text: "Free disk", show: bytes },
  outbox_depth: { text: "Outbox", show: (value) => number(value, 0), warn: 1000, bad: 10000 },
  outbox_oldest_s: { text: "Oldest in the outbox", show: span, warn: 300, bad: 3600 },
};

const FAMILIES = {
  fps: { text: "Frames per second of {name}", show: (value) => number(value) },
  latency_ms: { text: "Latency of {name}", show: (value) => `${number(value)} ms` },
};

export function metric(name) {
  if (METRICS[name]) return { ...METRICS[name], text: t(METRICS[name].text) };
  const [family, ...rest] = name.split(".");
  const found = FAMILIES[family];
  return found ? { ...found, text: t(found.text, { name: rest.join(".") }) } : { text: name, show: (value) => number(value, 2) };
}

export const shown = (figures, name) => (typeof figures?.[name] === "number" ? metric(name).show(figures[name]) : "–");

export function level(figures, name) {
  const value = figures?.[name];
  const { warn = Infinity, bad = Infinity } = METRICS[name] ?? {};
  return value >= bad ? "bad" : value >= warn ? "warn" : "";
}

export const rates = (figures) => Object.entries(figures ?? {}).filter(([name]) => name.startsWith("fps.")).map(([name, value]) => [name.slice(4), value]);
