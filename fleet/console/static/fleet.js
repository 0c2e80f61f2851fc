// All devices: which are well, and which need somebody.

import { refine, search, to } from "./address.js";
import { get } from "./api.js";
import { Selection } from "./assign.js";
import { h, renew } from "./dom.js";
import { level, rates, shown } from "./figures.js";
import { calmly, listen } from "./live.js";
import { overview } from "./overview.js";
import { button, choice, failure, latest, maintenancePill, since, STATE, statePill, table } from "./parts.js";
import { GROUP, tour } from "./tour.js";
import { counted, number, t } from "./words.js";

const PAGE = 100;
const REFRESH_MS = 5000;
const TYPED_MS = 200;
const COLUMNS = [["device", "Device"], ["state", "State"], ["seen_at", "Last word"], ["agent", "Version"], ["models", "Models, engines"], ["temperature_c", "Temperature"],
  ["fps", "Frames/s"], ["outbox_depth", "Outbox"], ["losses", "Lost"], ["alerts", "Alerts"]];
const SORTED = new Set(["device", "state", "seen_at", "agent", "temperature_c", "outbox_depth", "losses", "alerts"]);
const FALLING = new Set(["temperature_c", "outbox_depth", "losses", "alerts"]);

export function open(main, here, app) {
  let query = here.query;
  let found = { devices: [], total: 0, next: null };
  const counts = h("div.chips.counts");
  const list = h("div", { "aria-busy": true });
  const typed = h("input", { type: "search", name: "search", placeholder: t("Name, site, group, note, version, model"), value: query.search ?? "", "aria-label": t("Search"), "aria-keyshortcuts": "/" });
  const site = choice("site", [["", t("all")]], query.site);
  const group = choice("group", [["", t("all")]], query.group);
  const more = button(t("Show more"), () => load(found.next), "quiet.wide");
  const summary = h("p.hint", { role: "status" });
  const hint = h("div");
  const selection = app.can("operator") && new Selection(() => found.devices.map(({ device }) => device), () => { load(); count(true); });
  let about = null;
  let timer = null;
  typed.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => refine({ search: typed.value.trim() }), TYPED_MS);
  });
  site.addEventListener("change", () => refine({ site: site.value }));
  group.addEventListener("change", () => refine({ group: group.value }));

  const draw = latest(([answer, after]) => {
    found = after ? { ...answer, devices: [...found.devices, ...answer.devices] } : answer;
    list.removeAttribute("aria-busy");
    renew(list, rows(found.devices, query, selection));
    if (selection) selection.settle();
    more.hidden = found.next === null;
    summary.textContent = found.devices.length < found.total
      ? t("{n} of {total} devices are listed.", { n: number(found.devices.length, 0), total: number(found.total, 0) })
      : counted(found.total, "{n} device is listed.", "{n} devices are listed.");
  });
  const load = (after = null) => draw(get(`devices?${search({ sort: "state", ...query, limit: after ? PAGE : Math.max(PAGE, found.devices.length), after })}`).then((answer) => [answer, after]))
    .catch((error) => { list.replaceChildren(failure(error)); });
  const count = (anew = false) => overview(anew).then((found) => {
    about = found;
    renew(counts, ...chips(about, query));
    options(site, about.sites, query.site);
    options(group, about.groups, query.group);
    if (about.groups.includes(GROUP) && selection && !hint.hasChildNodes()) tour(hint).catch(() => {});
  }).catch(() => {});
  const refresh = calmly(() => { load(); count(true); }, REFRESH_MS);
  const heard = (told) => {
    const before = turned(list, told);
    if (before && about) {
      about.states = { ...about.states, [before]: (about.states[before] ?? 1) - 1, [told.state]: (about.states[told.state] ?? 0) + 1 };
      renew(counts, ...chips(about, query));
    }
    refresh();
  };
  const deaf = [listen("device", heard), listen("alert", refresh), listen("again", refresh)];
  const regular = setInterval(() => { if (!document.hidden) refresh(); }, 3 * REFRESH_MS);

  const parts = [h("div.heading", h("h1", t("Fleet")), counts),
    h("form.bar", { role: "search", onsubmit: (event) => event.preventDefault() }, typed, h("label", t("Site"), site), h("label", t("Group"), group)),
    hint, summary, selection && selection.element, list, more];
  main.append(...parts.filter(Boolean));
  more.hidden = true;
  load();
  count();
  return {
    moved(there) {
      query = there.query;
      found = { devices: [], total: 0, next: null };
      if (document.activeElement !== typed) typed.value = query.search ?? "";
      load();
      count();
    },
    leave() {
      clearTimeout(timer);
      clearInterval(regular);
      deaf.forEach((stop) => stop());
    },
  };
}

function options(select, names, value = "") {
  const known = new Set([...names, value].filter(Boolean));
  select.replaceChildren(h("option", { value: "" }, t("all")), ...[...known].sort().map((name) => h("option", { value: name, selected: name === value }, name)));
  select.parentElement.hidden = known.size === 0;
}

function chips({ total, states, alerting }, query) {
  const chip = (text, n, kind, changes, on) => h(`a.chip.${kind}`, { href: to("fleet", [], { ...query, ...changes }), "aria-current": on ? "true" : null }, h("strong", number(n, 0)), ` ${text}`);
  return [
    chip(t("all"), total, "plain", { state: "", alert: "" }, !query.state && !query.alert),
    ...Object.entries(STATE).filter(([state]) => state && (states[state] || state === "online")).map(([state, { kind, text }]) => chip(t(text), states[state] ?? 0, kind, { state, alert: "" }, query.state === state)),
    alerting > 0 && chip(t("with alerts"), alerting, "bad", { state: "", alert: "any" }, Boolean(query.alert)),
  ].filter(Boolean);
}

function head([key, text], query) {
  if (!SORTED.has(key)) return { text: t(text) };
  const [by, falling] = [query.sort?.replace(/^-/, "") ?? "state", query.sort?.startsWith("-") ?? false];
  const on = by === key;
  const next = on ? !falling : FALLING.has(key);
  const cell = h("th", { scope: "col", "aria-sort": on ? (falling ? "descending" : "ascending") : null },
    button([t(text), on && h("span", { "aria-hidden": "true" }, falling ? " ↓" : " ↑")], () => refine({ sort: `${next ? "-" : ""}${key}` }), "sort"));
  return { text: t(text), head: cell };
}

// What a device has just said shows at once; the figures follow. Answers what its state was, if that has changed.
function turned(list, { device, state, seen_at: seen }) {
  const row = list.querySelector(`tr[data-device="${CSS.escape(device)}"]`);
  const before = row?.dataset.state;
  if (!row || before === state) return null;
  row.dataset.state = state;
  row.querySelector(".state").replaceChildren(statePill(state));
  row.querySelector("[data-ago]")?.setAttribute("data-ago", seen);
  return before;
}

function rows(devices, query, selection) {
  const filtered = ["search", "state", "site", "group", "alert"].some((name) => query[name]);
  const empty = filtered ? t("No device is like that. Take a filter away.") : t("No device has spoken to this hub yet. `almena join` brings one.");
  return table(COLUMNS.map((column) => head(column, query)), devices.map((device) => cells(device, selection)),
    { label: t("Devices"), empty, row: (index) => ({ "data-state": devices[index].state, "data-device": devices[index].device }) });
}

function cells(device, selection) {
  const { figures } = device;
  const place = [device.site, device.group].filter(Boolean).join(" · ");
  const streams = rates(figures);
  const figure = (name) => h(`span.figure.${level(figures, name) || "plain"}`, shown(figures, name));
  return [
    h("div.named", selection && selection.box(device.device), h("div", h("a", { href: to("device", [device.device]) }, device.device), place && h("div.meta", place), device.note && h("div.meta", device.note))),
    [h("span.state", statePill(device.state)), device.maintenance && h("div", maintenancePill(device.maintenance))], since(device.seen_at), h("span.model", device.agent || "–"),
    (device.engines?.length ? device.engines : Object.values(device.models ?? {})).map((line) => h("div.model", line)),
    figure("temperature_c"),
    streams.length ? streams.slice(0, 3).map(([stream, value]) => h("div", number(value), h("span.meta", ` ${stream}`))) : "–",
    figure("outbox_depth"),
    device.losses ? h("span.figure.bad", number(device.losses, 0)) : "0",
    device.alerts ? h("a.pill.bad", { href: to("device", [device.device]) }, number(device.alerts, 0)) : "0",
  ];
}
