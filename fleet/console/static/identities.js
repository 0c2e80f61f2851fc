// People whom the devices of a site share: who is known where, until when, and erasing them with a receipt from each device.

import { refine, search, to } from "./address.js";
import { get, post, put } from "./api.js";
import { h, renew } from "./dom.js";
import { typed } from "./filters.js";
import { act, button, choice, confirmed, failure, fill, since, table } from "./parts.js";
import { clock, counted, moment, number, t } from "./words.js";

const PAGE = 100;
const AGAIN_MS = 5000;
const STATES = [["", "all"], ["shared", "shared"], ["erasing", "being erased"], ["erased", "erased"]];
const COPY = {
  there: { kind: "good", text: "there" },
  "waiting to be sealed": { kind: "plain", text: "waits for the device that enrolled the person" },
  "waiting to be fetched": { kind: "plain", text: "waits for this device" },
  declined: { kind: "bad", text: "refused" },
  erasing: { kind: "warn", text: "not erased yet" },
  erased: { kind: "good", text: "erased" },
};

export function open(main, here, app) {
  const sites = h("div");
  const place = h("div");
  const more = button(t("Show more"), () => load(next), "quiet.wide", { hidden: true });
  let query = here.query;
  let people = [];
  let next = null;
  const load = async (after = null) => {
    const mine = query;
    const limit = after ? PAGE : Math.min(500, Math.max(PAGE, people.length));
    try {
      const page = await get(`identities?${search({ ...mine, limit, after })}`);
      if (mine !== query) return;
      people = after ? [...people, ...page.identities] : page.identities;
      next = page.next;
      more.hidden = next === null;
      if (!place.querySelector("details[open]")) renew(place, peopleTable(people, app, load));
    } catch (error) {
      place.replaceChildren(failure(error));
    }
  };
  const loadSites = () => fill(sites, get("sharing").then((sharing) => siteList(sharing, app, loadSites)));
  main.append(h("div.heading", h("h1", t("Identities"))),
    h("p.hint", t("Who was enrolled on one device is known on the others of its site. Pictures and templates travel sealed for each device: this hub keeps boxes that it cannot open. Who is to be known is enrolled at a device: on its own page, or with `almena identity add`.")),
    h("h2", t("Sites that share")), sites, h("h2", t("People")), filters(query), place, more);
  loadSites();
  load();
  const timer = setInterval(() => document.hidden || load(), AGAIN_MS);
  return {
    moved(there) {
      query = there.query;
      people = [];
      load();
    },
    leave: () => clearInterval(timer),
  };
}

function filters(query) {
  const state = choice("state", STATES.map(([name, text]) => [name, t(text)]), query.state ?? "");
  state.addEventListener("change", () => refine({ state: state.value }));
  return h("form.bar", { role: "search", onsubmit: (event) => event.preventDefault() },
    typed("search", query), typed("site", query), typed("device", query), h("label", t("State"), state));
}

function siteList({ door, sites }, app, load) {
  if (!door) return h("p.empty", t("This hub has no door for devices, and so nothing is shared: add the section `door` to its settings."));
  return table([t("Site"), t("Shares"), t("Devices that take part"), ""], sites.map((site) => [
    site.site, site.enabled ? h("span.pill.good", t("on")) : h("span.pill.plain", t("off")),
    site.devices.length ? site.devices.map((name, index) => [index ? ", " : "", h("a", { href: to("device", [name]) }, name)]) : h("span.meta", t("none: set `hub.identities: true` on the devices")),
    app.can("admin") && (site.enabled
      ? button(t("Share no longer …"), () => confirmed(t("Share no longer at {site}?", { site: site.site }), t("Each device erases whom it got from others. Who was enrolled on it stays there."), t("Share no longer"), () => put("sharing", { site: site.site, enabled: false }).then(load)), "danger", { "aria-label": `${t("Share no longer …")}: ${site.site}` })
      : button(t("Share"), (event) => act(event.target, () => put("sharing", { site: site.site, enabled: true }).then(load), t("The devices of {site} share identities from now on", { site: site.site })), "quiet", { "aria-label": `${t("Share")}: ${site.site}` })),
  ]), { label: t("Sites that share"), empty: t("No device has a site yet: give it one on its page.") });
}

const peopleTable = (people, app, load) => table([t("Name"), t("Consent"), t("Ends"), t("Enrolled on"), t("Known on"), ""], people.map((person) => [
  [person.state === "shared" ? person.name : t("Somebody (erased)"), h("div.meta", person.id)],
  h("span.wrap", person.consent || "–"), person.expires_at ? h("time", { title: moment(person.expires_at) }, clock(person.expires_at)) : person.state === "shared" ? t("no end") : "–",
  [h("a", { href: to("device", [person.origin]) }, person.origin), h("div.meta", person.site)],
  [person.state !== "shared" && [h("p", t("Erasure ordered"), " ", since(person.erase_at), ` · ${person.erase_by === "expiry" ? t("its time is over") : t("by {name}", { name: person.erase_by })}`), h("p", summary(person))], h("ul.copies", person.copies.map(copy))],
  app.can("admin") && erasing(person, load),
]), { label: t("People"), empty: t("Nobody is shared. Whoever is enrolled on a device of a site that shares shows here.") });

function summary({ copies }) {
  const waiting = copies.filter(({ receipt }) => !receipt).length;
  return waiting ? counted(waiting, "{n} device has not erased it yet", "{n} devices have not erased it yet") : t("Erased on every device");
}

function copy({ device, state, since: at, detail, receipt, proof, certificate }) {
  const { kind, text } = COPY[state] ?? { kind: "plain", text: state };
  return h("li", h("a", { href: to("device", [device]) }, device), " ", h(`span.pill.${kind}`, t(text)), at && h("span.meta", " ", since(at)), detail && h("div.meta", detail),
    receipt && h("details.raw", h("summary", t("Receipt: {pictures} pictures, {templates} templates", { pictures: number(receipt.pictures, 0), templates: number(receipt.templates, 0) })), h("pre", JSON.stringify({ receipt, proof, certificate }, null, 2))));
}

function erasing(person, load) {
  const path = `identities/${encodeURIComponent(person.id)}/erase`;
  if (person.state === "erased") return false;
  if (person.state === "erasing") return button(t("Ask again"), (event) => act(event.target, () => post(path).then(() => load()), t("The devices are told again")), "quiet", { "aria-label": `${t("Ask again")}: ${person.id}` });
  return button(t("Erase …"), () => confirmed(t("Erase {name} everywhere?", { name: person.name }),
    t("Pictures, templates and the name go, on every device and in what this hub has stored. Each device answers with a receipt; one that is away does so when it is back. This cannot be undone."),
    t("Erase"), () => post(path).then(() => load())), "danger", { "aria-label": `${t("Erase …")}: ${person.name}` });
}
