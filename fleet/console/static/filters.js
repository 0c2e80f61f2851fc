// The bar of filters above a list of events: where, what, when.

import { refine } from "./address.js";
import { get } from "./api.js";
import { h } from "./dom.js";
import { button, choice } from "./parts.js";
import { t } from "./words.js";

export const KINDS = [["face", "faces"], ["classification", "classifications"], ["study", "studies"], ["stream", "streams"]];

const TYPED_MS = 300;
const PRESETS = [["", "any time"], ["3600", "last hour"], ["86400", "last 24 hours"], ["604800", "last 7 days"], ["range", "from … to …"]];
const NAMES = { device: "Device", site: "Site", stream: "Stream", kind: "Kind", subject: "Who or what", search: "Name" };

const local = (seconds) => (seconds ? new Date(seconds * 1000 - new Date(seconds * 1000).getTimezoneOffset() * 60000).toISOString().slice(0, 16) : "");
const seconds = (text) => (text ? new Date(text).getTime() / 1000 : "");

// The question that the filters put to the interface: `last` seconds back from now, or since and until.
export function asked({ last, since, until, ...query }, fixed = {}) {
  const from = last && last !== "range" ? Math.floor(Date.now() / 1000) - Number(last) : since;
  return { ...query, since: from, until, ...fixed };
}

// Whether an event that has just come would be in the answer; which site a device stands at, it does not say.
export const matches = (event, query, names) => !query.until && !query.site && names.every((name) => name === "site" || !query[name] || event[name] === query[name]);

export const filtered = (query) => Object.values(query).some(Boolean);

export function bar(query, names, kinds = []) {
  const inputs = names.map((name) => (name === "kind" ? kindOf(query, kinds) : typed(name, query)));
  const last = query.since || query.until ? "range" : query.last ?? "";
  const preset = choice("last", PRESETS.map(([key, text]) => [key, t(text)]), last);
  const since = h("input", { type: "datetime-local", name: "since", value: local(query.since), "aria-label": t("From") });
  const until = h("input", { type: "datetime-local", name: "until", value: local(query.until), "aria-label": t("To") });
  const range = h("span.range", { hidden: last !== "range" }, since, "–", until);
  preset.addEventListener("change", () => {
    range.hidden = preset.value !== "range";
    if (range.hidden) refine({ last: preset.value, since: "", until: "" });
    else since.focus();
  });
  for (const end of [since, until]) end.addEventListener("change", () => refine({ last: "", since: seconds(since.value), until: seconds(until.value) }));
  const clear = button(t("Clear filters"), () => {
    for (const element of form.elements) if ("value" in element) element.value = "";
    range.hidden = true;
    refine(Object.fromEntries(["last", "since", "until", ...names].map((name) => [name, ""])));
  });
  const form = h("form.bar", { role: "search", onsubmit: (event) => event.preventDefault() }, inputs, h("label", t("When"), preset), range, clear);
  return form;
}

export function typed(name, query) {
  let timer = null;
  const hint = name === "subject" ? t("Name, pseudonym, label") : null;
  const input = h("input", { type: ["subject", "search"].includes(name) ? "search" : "text", name, placeholder: hint, value: query[name] ?? "", autocomplete: "off", spellcheck: "false" });
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => refine({ [name]: input.value.trim() }), TYPED_MS);
  });
  if (name === "device") suggest(input);
  return h("label", t(NAMES[name]), input);
}

function kindOf(query, kinds) {
  const select = choice("kind", [["", t("all")], ...kinds.map(([kind, text]) => [kind, t(text)])], query.kind ?? "");
  select.addEventListener("change", () => refine({ kind: select.value }));
  return h("label", t(NAMES.kind), select);
}

// Names of devices that begin like, or contain, what has been typed.
function suggest(input) {
  const list = h("datalist", { id: `names-${input.name}` });
  input.setAttribute("list", list.id);
  input.after(list);
  const offer = async () => {
    const { devices } = await get(`devices?limit=20&search=${encodeURIComponent(input.value.trim())}`).catch(() => ({ devices: [] }));
    list.replaceChildren(...devices.map(({ device }) => h("option", { value: device })));
    if (!list.isConnected) input.after(list);
  };
  input.addEventListener("focus", offer);
  input.addEventListener("input", offer);
}
