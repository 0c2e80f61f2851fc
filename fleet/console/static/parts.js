// Pieces of which pages are made.

import { ask as dialogOf } from "./dialog.js";
import { byId, h } from "./dom.js";
import { ago, clock, moment, t, told } from "./words.js";

// Whatever a device sent, as text: an object among the children of `h` would be taken for attributes.
export const word = (value) => (value === null || value === undefined ? "" : typeof value === "object" ? JSON.stringify(value) : String(value));

export const STATE = {
  online: { kind: "good", text: "online", why: "It speaks to the hub" },
  stale: { kind: "warn", text: "stale", why: "It is late: its lease is over" },
  offline: { kind: "bad", text: "offline", why: "It does not speak any more" },
  stopped: { kind: "plain", text: "stopped", why: "It was stopped on purpose" },
  "": { kind: "plain", text: "never seen", why: "It has not spoken to the hub yet" },
};

export function statePill(state) {
  const { kind, text, why } = STATE[state ?? ""] ?? { kind: "plain", text: state, why: "" };
  return h(`span.pill.${kind}`, { title: t(why) }, t(text));
}

export const maintenancePill = (until) => until && h("span.pill.plain.whole", { title: t("Nobody is told of its alerts") }, t("maintenance until {time}", { time: clock(until) }));

export const since = (seconds) => (seconds ? h("time", { "data-ago": seconds, title: moment(seconds) }, ago(seconds)) : "–");

export function tick() {
  for (const element of document.querySelectorAll("[data-ago]")) element.textContent = ago(Number(element.dataset.ago));
}

// A table that turns into a list of cards on a phone. `columns`: texts, or {text, sort}; a row is a list of cells, the first its heading.
export function table(columns, rows, { label, empty, row = () => ({}) } = {}) {
  if (rows.length === 0) return h("p.empty", empty);
  const heads = columns.map((column) => column.text ?? column);
  return h("div.card.scroll", h("table.rows", { "aria-label": label },
    h("thead", h("tr", columns.map((column) => column.head ?? h("th", { scope: "col" }, column.text ?? column)))),
    h("tbody", rows.map(([first, ...rest], index) => h("tr", row(index), h("th", { scope: "row" }, first),
      rest.map((cell, place) => h("td", { "data-label": heads[place + 1] }, h("div", cell))))))));
}

export const button = (text, action, kind = "quiet", more = {}) => h(`button.${kind}`, { type: "button", onclick: action, ...more }, text);

// Why something did not go, in the reader's language.
export const reason = ({ status, message, problem }) => (status === 0
  ? t("The hub does not answer: see that it runs, and that this machine reaches it")
  : [problem?.title ?? message, problem?.detail].filter(Boolean).map(told).join(": "));

export const failure = (error) => h("p.empty.bad", { role: "alert" }, `${reason(error)}.`);

export const ask = (title, fields, label, submit, kind = "primary", after = () => {}) =>
  dialogOf(title, fields, label, (form) => submit(form).catch((error) => { throw new Error(reason(error)); }), { kind, after, words: { cancel: t("Cancel"), close: t("Close") } });

export const confirmed = (title, text, label, action) => ask(title, [h("p", text)], label, async () => { await action(); }, "danger");

export const field = (label, input, hint = "") => h("label", label, input, hint && h("small", hint));

export function choice(name, options, value = "", attributes = {}) {
  return h("select", { name, ...attributes }, options.map(([key, text]) => h("option", { value: key, selected: key === value }, text)));
}

let saying = null;

// A short word on what was done; it goes by itself and takes no place.
export function say(text, kind = "good") {
  byId("said")?.remove();
  document.body.append(h(`p.said.${kind}`, { id: "said", role: "status" }, text));
  clearTimeout(saying);
  saying = setTimeout(() => byId("said")?.remove(), 6000);
}

// Runs what a button asks for; a failure is shown, and the button works again.
export async function act(element, action, done = "") {
  element.disabled = true;
  try {
    await action();
    if (done) say(done);
  } catch (error) {
    say(`${reason(error)}.`, "bad");
  }
  element.disabled = false;
}

// Fills `box` from a promise of elements; while it is empty, a failure stands in their place.
export async function fill(box, promise) {
  try {
    box.replaceChildren(...[await promise].flat().filter(Boolean));
  } catch (error) {
    box.replaceChildren(failure(error));
  }
}

// Only the newest of several questions that overlap gets its answer drawn.
export function latest(draw) {
  let asked = 0;
  return async (question) => {
    const mine = ++asked;
    const answer = await question;
    if (mine === asked) draw(answer);
  };
}
