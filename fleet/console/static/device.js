// One device: how it is now, its charts, its events, what it lost, what it was told and what is wanted of it.

import { to } from "./address.js";
import { erase, get, patch } from "./api.js";
import { charts } from "./device_charts.js";
import { commands } from "./device_commands.js";
import { losses } from "./device_losses.js";
import { now } from "./device_now.js";
import { pictures } from "./device_pictures.js";
import { settings } from "./device_settings.js";
import { h, renew } from "./dom.js";
import { Feed, feedPage } from "./feed.js";
import { asked, bar, filtered, KINDS, matches } from "./filters.js";
import { calmly, listen } from "./live.js";
import { maintain } from "./maintenance.js";
import { ask, button, confirmed, failure, field, latest, maintenancePill, since, statePill } from "./parts.js";
import { switchOff } from "./tour.js";
import { clock, t } from "./words.js";

const EVENT_FILTERS = ["stream", "kind", "subject"];
const REFRESH_MS = 3000;
const TABS = { now: "Now", charts: "Charts", events: "Events", pictures: "Pictures", losses: "Losses", commands: "Commands", settings: "Settings" };
const VIEWS = { __proto__: null, now, charts, events, pictures, losses, commands, settings };

export function open(main, here, app) {
  const name = here.parts[0];
  const address = here.parts[0] ? `devices/${encodeURIComponent(name)}` : "";
  const head = h("div");
  const tabs = h("nav.tabs", { "aria-label": t("Parts of this page") });
  const body = h("div");
  const context = { name, address, app, device: null };
  let tab = null;
  let view = null;

  const draw = (device) => {
    context.device = device;
    for (const part of [tabs, body]) part.hidden = false;
    renew(head, heading(context, load));
    view?.update?.(device);
  };
  const newest = latest(draw);
  const load = () => newest(get(address)).catch((error) => {
    if (context.device) return;
    const unknown = error.status === 404;
    head.replaceChildren(h("h1", name), unknown ? h("p.empty.bad", { role: "alert" }, t("There is no such device: it was removed, or is called otherwise. The fleet lists all that there are.")) : failure(error));
    for (const part of [tabs, body]) part.hidden = unknown;
  });
  const show = ({ parts: [, wanted = "now"], query }) => {
    if (tab === wanted && view?.moved) {
      view.moved({ query });
      return;
    }
    view?.leave?.();
    tab = wanted in VIEWS ? wanted : "now";
    renew(tabs, ...Object.entries(TABS).map(([key, text]) => h("a", { href: to("device", [name, key]), "aria-current": key === tab ? "page" : null }, t(text))));
    body.replaceChildren();
    view = VIEWS[tab](body, context, query);
    if (context.device) view.update?.(context.device);
  };
  const refresh = calmly(load, REFRESH_MS);
  const deaf = [listen("device", (told) => { if (told.device === name) turned(told); }), listen("alert", (told) => { if (told.device === name) refresh(); }), listen("again", refresh)];
  const turned = ({ state, seen_at: seen }) => {
    if (context.device && context.device.state !== state) draw({ ...context.device, state, seen_at: seen });
    refresh();
  };
  const regular = setInterval(() => { if (!document.hidden) refresh(); }, 4 * REFRESH_MS);
  main.append(h("p.back", h("a", { href: "#/fleet" }, `← ${t("Fleet")}`)), head, tabs, body);
  load();
  show(here);
  return {
    moved: show,
    leave() {
      clearInterval(regular);
      deaf.forEach((stop) => stop());
      view?.leave?.();
    },
  };
}

function heading({ name, address, app, device }, load) {
  const place = [device.site && t("Site {site}", { site: device.site }), device.group && t("Group {group}", { group: device.group }), device.agent && t("Almena {version}", { version: device.agent })].filter(Boolean);
  const places = [["device", name], device.site && ["site", device.site], device.group && ["group", device.group]].filter(Boolean);
  const actions = app.can("operator") && [
    device.reported?.state?.simulated && device.state === "online" && switchOff(name),
    button(t("Site, group and note"), () => describe(address, device, load)), button(t("Maintenance …"), () => maintain(places, load)),
    app.can("admin") && button(t("Remove …"), () => remove(name, address), "danger"),
  ];
  return h("div", h("div.heading", h("h1", name, " ", statePill(device.state), " ", maintenancePill(device.maintenance)), actions),
    h("p.hint", says(device), " ", since(device.seen_at), ".", place.length > 0 && ` ${place.join(" · ")}`, device.note && h("span", { class: "note" }, device.note)));
}

function says({ state, seen_at: seen }) {
  if (!seen) return t("It has never spoken to this hub.");
  return { online: t("It speaks to the hub; last word"), stale: t("It should have spoken by now; last word"), stopped: t("It was stopped on purpose; last word") }[state]
    ?? t("It does not speak since {time}; last word", { time: clock(seen) });
}

const remove = (name, address) => confirmed(t("Remove {name}?", { name }), t("The hub forgets how it is, what it measured, was told and wanted; what it saw stays as long as all events do. If it speaks again, it comes back as a new device: to keep it away, take its certificate back with `almena fleet revoke`."), t("Remove"), async () => {
  await erase(address);
  location.hash = to("fleet");
});

function describe(address, device, load) {
  const input = (name) => h("input", { name, value: device[name] ?? "", maxlength: 64, autocomplete: "off" });
  ask(t("Site, group and note"), [
    field(t("Site"), input("site"), t("Where it stands")), field(t("Group"), input("group"), t("What it is used for")),
    field(t("Note"), h("textarea", { name: "note", rows: 2, maxlength: 500 }, device.note ?? ""), t("What the next person should know")),
  ], t("Save"), async ({ elements }) => { await patch(address, { site: elements.site.value.trim(), group: elements.group.value.trim(), note: elements.note.value.trim() }); }, "primary", load);
}

function events(body, { name }, query) {
  const filters = bar(query, EVENT_FILTERS, KINDS);
  return feedPage(body, { query }, [], filters, (given) => new Feed(asked(given, { device: name }), {
    mine: (event) => event.device === name && matches(event, given, EVENT_FILTERS),
    empty: filtered(given) ? t("Nothing like that has happened. Take a filter away, or look at another time.") : t("No event of this device has reached the hub yet."),
  }), h("div.card.feed"));
}
