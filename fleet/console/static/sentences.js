// What an event says, as a sentence: who or what, what happened, and of which kind that is.

import { word } from "./parts.js";
import { number, span, t } from "./words.js";

const STREAM = {
  __proto__: null, connecting: "is connecting", running: "is running", frozen: "shows a frozen picture", covered: "is covered", failed: "has failed", finished: "is at its end",
};
const QUIET = new Set(["left", "changed"]);

export function sentence(event) {
  const data = event.data ?? {};
  try {
    const { who, text, kind } = (KINDS[event.kind] ?? other)(event, data);
    return { who: word(who), text, kind };
  } catch {
    return other(event, data); // of a later version, or not what its kind promises
  }
}

const because = (reason) => (reason && !QUIET.has(reason) ? ` (${t(reason)})` : "");

function face({ stream: place }, data) {
  const strangers = { known: t("Somebody (erased)"), unknown: [t("Unknown"), data.cluster].filter(Boolean).join(" ") };
  const who = data.name ?? strangers[data.decision] ?? t("Somebody");
  const kind = data.name ? "known" : "unknown";
  const said = { known: "was recognised at {place}", unknown: "was not recognised at {place}", undecided: "is still at {place}" }[data.decision];
  const text = { new: "arrived at {place}", update: said, end: data.ended_at ? "left {place} after {span}" : "left {place}" }[data.type];
  return { who, text: t(text, { place, span: span(data.ended_at - data.started_at) }) + because(data.reason), kind: data.type === "end" ? `${kind}.gone` : kind };
}

function stream({ stream: place }, data) {
  const text = [t(STREAM[data.state] ?? data.state), data.code && `(${data.code})`, data.detail && `– ${data.detail}`].filter(Boolean).join(" ");
  return { who: place, text, kind: ["running", "finished"].includes(data.state) ? "fine" : "trouble" };
}

function classification({ stream: place }, data) {
  const still = data.reason ? "no longer shows {label} (score {score})" : "has a photograph that shows {label} (score {score})";
  const text = { new: "shows {label} (score {score})", update: "still shows {label} (score {score})", end: still }[data.type];
  const score = number(data.probabilities[data.label], 2);
  return { who: place, text: t(text, { label: data.label, score }) + because(data.reason), kind: data.type === "end" && data.reason ? "known.gone" : "known" };
}

function study(_event, data) {
  const who = t("Radiograph {item}", { item: data.item.slice(0, 8) });
  if (data.decision === null) return { who, text: t("got no answer: {reason}", { reason: data.reason }), kind: "unknown" };
  const values = { decision: data.decision, positive: data.positive, score: number(data.scores[data.positive], 2) };
  return { who, text: t("the model answers {decision}, unverified ({positive} {score})", values), kind: "known" };
}

function other({ kind, stream: place }, data) {
  return { who: [kind, place].filter(Boolean).join(" · "), text: JSON.stringify(data), kind: "other" };
}

const KINDS = { __proto__: null, face, stream, classification, study };
