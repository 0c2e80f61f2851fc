// The list of events: sentences for people, newest first, growing as things happen.

import { get } from "./api.js";
import { byId, h, pill } from "./dom.js";
import { receive } from "./receive.js";
import { clock, span } from "./words.js";

const SHOWN = 500;
const NOTHING = byId("events-empty").textContent;
const shown = new Set();
let room = SHOWN; // more once older ones were asked for
let next = null; // where the list goes on: moment and number of its last event, as in `next` of a page
let arrived = []; // while a page is on its way

const filters = () => ({ stream: byId("filter-stream").value, kind: byId("filter-kind").value });

function query(extra = {}) {
  const given = Object.entries({ ...filters(), ...extra }).filter(([, value]) => value);
  return new URLSearchParams(given).toString();
}

export function start() {
  for (const id of ["filter-stream", "filter-kind"]) byId(id).addEventListener("change", reload);
  byId("older").addEventListener("click", older);
  listen();
}

function listen() {
  receive("/api/1/events/live", {
    ready: () => {
      pill(byId("feed-state"), "live", "good");
      reload();
    },
    error: () => pill(byId("feed-state"), "reconnecting", "warn"),
    message: (message) => {
      const event = JSON.parse(message.data);
      const { stream, kind } = filters();
      if ((stream && event.stream !== stream) || (kind && event.kind !== kind)) return;
      arrived.push(event);
      add(event, true);
    },
  });
}

async function reload() {
  byId("csv").href = `/api/1/events.csv?${query()}`;
  arrived = [];
  try {
    const page = await get(`events?${query({ limit: 50 })}`);
    byId("events").replaceChildren();
    shown.clear();
    room = SHOWN;
    page.events.forEach((event) => add(event, false));
    arrived.forEach((event) => add(event, true));
    arrived = [];
    follow(page.next);
  } catch (error) {
    tell(`${error.message}.`);
  }
}

async function older() {
  try {
    const asked = next;
    const page = await get(`events?${query({ limit: 50, cursor: asked })}`);
    if (next !== asked) return; // the list has been cut, or filtered anew, meanwhile
    page.events.forEach((event) => add(event, false));
    room = Math.max(room, shown.size);
    follow(page.next);
  } catch (error) {
    tell(`${error.message}.`);
  }
}

function tell(text) {
  byId("events-empty").textContent = text;
  byId("events-empty").hidden = false;
}

function follow(cursor) {
  next = cursor;
  byId("older").hidden = cursor === null;
  tell(NOTHING);
  byId("events-empty").hidden = shown.size > 0;
}

const number = (event) => Number(event.id.split("/").pop());

// A fresh event finds its place by number: after a break, those that were missed come late. Older ones than are listed can be loaded.
function add(event, fresh) {
  const last = byId("events").lastElementChild;
  if (shown.has(event.id) || (fresh && last && number(event) < Number(last.dataset.number))) return;
  shown.add(event.id);
  offer(byId("filter-stream"), event.stream);
  offer(byId("filter-kind"), event.kind);
  const list = byId("events");
  const item = row(event);
  if (fresh) {
    item.classList.add("fresh");
    list.insertBefore(item, [...list.children].find((other) => Number(other.dataset.number) < number(event)) ?? null);
    byId("events-empty").hidden = true;
    while (list.children.length > room) {
      shown.delete(list.lastElementChild.dataset.id);
      list.lastElementChild.remove();
      const { at, number: last } = list.lastElementChild.dataset;
      follow(`${at}|${last}`);
    }
  } else {
    list.append(item);
  }
}

function offer(select, value) {
  if (![...select.options].some((option) => option.value === value)) select.append(h("option", value));
}

function row(event) {
  const { text, who, kind } = sentence(event);
  return h(`li.${kind}`, { "data-id": event.id, "data-at": event.captured_at, "data-number": number(event) },
    h("span.dot", { "aria-hidden": "true" }),
    h("div", h("p", who && h("strong", who), who && " ", text), h("p.meta", h("time", { title: event.clock === "synced" ? "" : "The device's clock was not synchronised" }, clock(event.captured_at)), facts(event))));
}

function facts({ kind, data }) {
  const parts = [];
  if (kind === "face" && data.distance !== null && data.distance !== undefined) parts.push(`distance ${data.distance.toFixed(2)} (limit ${data.threshold.toFixed(2)})`);
  if (kind === "face" && data.score) parts.push(`face ${Math.round(data.score * 100)}\u00a0%`);
  return parts.map((part) => ` · ${part}`);
}

export function sentence(event) {
  if (event.kind === "face") return face(event);
  if (event.kind === "stream") return stream(event);
  if (event.kind === "study") return study(event);
  if (event.kind === "classification") return classification(event);
  return { who: "", text: `${event.kind} at ${event.stream}: ${JSON.stringify(event.data)}`, kind: "other" };
}

function face({ stream: place, data }) {
  const who = data.name ?? { known: "Somebody (erased)", unknown: ["Unknown", data.cluster].filter(Boolean).join(" ") }[data.decision] ?? "Somebody";
  const kind = data.name ? "known" : "unknown";
  const known = { known: "was recognised", unknown: "was not recognised", undecided: "is still there" }[data.decision];
  const stay = data.ended_at ? ` after ${span(data.ended_at - data.started_at)}` : "";
  const why = data.reason && data.reason !== "left" ? ` (${data.reason})` : "";
  const end = data.reason ? `left ${place}${stay}${why}` : `is on a photograph of ${place}`;
  const text = { new: `arrived at ${place}`, update: `${known} at ${place}`, end }[data.type];
  return { who, text: text ?? data.type, kind: data.type === "end" && data.reason ? `${kind}.gone` : kind };
}

function classification({ stream: place, data }) {
  const score = `(score ${data.probabilities[data.label].toFixed(2)})`;
  const why = data.reason && !["left", "changed"].includes(data.reason) ? ` (${data.reason})` : "";
  const text = { new: "shows", update: "still shows", end: data.reason ? "no longer shows" : "has a photograph that shows" }[data.type];
  return { who: place, text: `${text} ${data.label} ${score}${why}`, kind: data.type === "end" && data.reason ? "known.gone" : "known" };
}

function study({ data }) {
  const who = `Radiograph ${data.item.slice(0, 8)}`;
  if (data.decision === null) return { who, text: `got no answer: ${data.reason}`, kind: "unknown" };
  return { who, text: `the model answers ${data.decision}, unverified (${data.positive} ${data.scores[data.positive].toFixed(2)})`, kind: "known" };
}

const STREAM = {
  connecting: "is connecting", running: "is running", frozen: "shows a frozen picture", covered: "is covered", failed: "has failed", finished: "is at its end",
};

function stream({ stream: place, data }) {
  const text = [STREAM[data.state] ?? data.state, data.code && `(${data.code})`, data.detail && `– ${data.detail}`].filter(Boolean).join(" ");
  return { who: place, text, kind: data.state === "running" || data.state === "finished" ? "fine" : "trouble" };
}
