// The frame of the console: which page is open, who reads it, what is live.

import * as accounts from "./accounts.js";
import { address, to } from "./address.js";
import * as alerts from "./alerts.js";
import { get, post } from "./api.js";
import * as audit from "./audit.js";
import * as device from "./device.js";
import { byId, h } from "./dom.js";
import * as events from "./events.js";
import * as faces from "./faces.js";
import * as fleet from "./fleet.js";
import { watch } from "./health.js";
import * as identities from "./identities.js";
import { calmly, connect, listen } from "./live.js";
import { overview } from "./overview.js";
import { tick } from "./parts.js";
import { changePassword } from "./password.js";
import * as refused from "./refused.js";
import * as studies from "./studies.js";
import { languages, number, t, translated } from "./words.js";

const ROLES = ["viewer", "operator", "admin"];
const PAGES = {
  __proto__: null,
  fleet: { module: fleet, text: "Fleet" },
  device: { module: device },
  events: { module: events, text: "Events" },
  faces: { module: faces, text: "Faces" },
  studies: { module: studies, text: "Studies" },
  alerts: { module: alerts, text: "Alerts" },
  identities: { module: identities, text: "Identities", least: "operator" },
  accounts: { module: accounts, text: "Accounts", least: "admin" },
  refused: { module: refused, text: "Refused", least: "admin" },
  audit: { module: audit, text: "Audit", least: "admin" },
};
const app = { me: null, can: (role) => ROLES.indexOf(app.me.role) >= ROLES.indexOf(role) };
let open = null;

function navigation() {
  byId("nav").setAttribute("aria-label", t("Pages"));
  const shown = Object.entries(PAGES).filter(([, { text, least }]) => text && (!least || app.can(least)));
  byId("nav").replaceChildren(...shown.map(([name, { text }]) => h("a", { href: to(name), id: `nav-${name}` }, t(text), name === "alerts" && h("span.badge", { id: "firing", hidden: true }))));
}

function turn() {
  const here = address();
  const name = here.page in PAGES ? here.page : "fleet";
  const key = JSON.stringify([name, here.parts[0]]);
  for (const link of byId("nav").children) {
    if (link.id === `nav-${name === "device" ? "fleet" : name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (open?.key === key) {
    open.moved(here);
    return;
  }
  open?.leave();
  const main = byId("main");
  main.replaceChildren();
  document.title = `${here.parts[0] ?? t(PAGES[name].text ?? "")} – Almena`;
  const first = open === null;
  open = { key, ...PAGES[name].module.open(main, here, app) };
  window.scrollTo(0, 0);
  if (!first) main.focus({ preventScroll: true });
}

async function firing() {
  const { unacknowledged: fresh } = await overview();
  byId("firing").textContent = number(fresh, 0);
  byId("firing").hidden = fresh === 0;
  byId("nav-alerts").setAttribute("aria-label", fresh ? t("Alerts, {n} not acknowledged", { n: fresh }) : t("Alerts"));
}

async function begin() {
  languages(byId("language"));
  translated(document);
  app.me = await get("me");
  byId("who").textContent = app.me.name;
  byId("who").title = `${t(app.me.role)}: ${t("Change your password")}`;
  byId("who").addEventListener("click", changePassword);
  navigation();
  byId("logout").addEventListener("click", async () => {
    await post("logout");
    location.assign("/login");
  });
  window.addEventListener("hashchange", turn);
  turn();
  const counted = calmly(() => firing().catch(() => {}), 2000);
  for (const kind of ["alert", "again"]) listen(kind, counted);
  counted();
  connect();
  watch();
  setInterval(tick, 1000);
}

document.addEventListener("keydown", (event) => {
  const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName);
  const field = document.querySelector("main input[type=search]");
  if (event.key === "/" && !typing && field) {
    event.preventDefault();
    field.focus();
  }
});

begin().catch((error) => {
  byId("notice").textContent = `${t(error.message)}. ${t("Load the page again.")}`;
  byId("notice").hidden = false;
});
