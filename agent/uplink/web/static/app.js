// The frame of the page: sections, status line, and which parts are awake.

import { get, post } from "./api.js";
import { byId, pill } from "./dom.js";
import * as events from "./events.js";
import * as live from "./live.js";
import * as people from "./people.js";
import * as studies from "./studies.js";
import * as system from "./system.js";

const STATUS_MS = 3000;
const sections = { live, people, studies, system };
const tabs = [...document.querySelectorAll("[role=tab]")];
let current = "live";

function show(name) {
  current = name in sections ? name : "live";
  for (const tab of tabs) {
    const chosen = tab.getAttribute("aria-controls") === current;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    byId(tab.getAttribute("aria-controls")).hidden = !chosen;
  }
  wake();
}

function wake() {
  for (const [name, section] of Object.entries(sections)) section.awake(name === current && !document.hidden);
  if (!document.hidden) status();
}

const BROKER = { connected: "good", off: "", connecting: "warn", waiting: "warn", refused: "bad" };
const DICOM = { running: "good", impaired: "warn" };

async function status() {
  const notice = byId("notice");
  try {
    const health = await get("health");
    byId("device").textContent = health.device;
    document.title = `${health.device} – Almena`;
    byId("logout").hidden = !health.login;
    byId("tab-studies").hidden = !health.studies;
    const up = health.vision.state === "running";
    pill(byId("vision-state"), up ? "vision running" : "vision down", up ? "good" : "bad", health.vision.detail);
    const broker = health.broker.state === "off" ? "no broker" : `broker ${health.broker.state}`;
    pill(byId("broker-state"), broker, BROKER[health.broker.state] ?? "warn", health.broker.detail);
    byId("dicom-state").hidden = !health.dicom;
    if (health.dicom) pill(byId("dicom-state"), `DICOM ${health.dicom.state}`, DICOM[health.dicom.state] ?? "bad", health.dicom.detail);
    byId("watched").hidden = health.watched.length === 0;
    byId("watched").textContent = health.watched.map(({ stream, since }) => `Somebody at the hub looks at ${stream}, since ${new Date(since * 1000).toLocaleTimeString()}.`).join(" ");
    notice.hidden = up;
    notice.textContent = up ? "" : `${health.vision.detail[0].toUpperCase()}${health.vision.detail.slice(1)}. Events that were stored before can still be read.`;
    document.body.classList.toggle("vision-down", !up);
  } catch (error) {
    pill(byId("vision-state"), "no answer", "bad");
    pill(byId("broker-state"), "unknown", "");
    notice.hidden = false;
    notice.textContent = `${error.message}. Trying again …`;
  }
}

for (const tab of tabs) {
  tab.addEventListener("click", () => { location.hash = `/${tab.getAttribute("aria-controls")}`; });
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const shown = tabs.filter((other) => !other.hidden);
    const next = shown[(shown.indexOf(tab) + step + shown.length) % shown.length];
    next.focus();
    next.click();
  });
}
byId("logout").addEventListener("click", async () => {
  await post("logout");
  location.assign("/login");
});
window.addEventListener("hashchange", () => show(location.hash.slice(2)));
document.addEventListener("visibilitychange", wake);
setInterval(() => { if (!document.hidden) status(); }, STATUS_MS);

events.start();
people.start();
studies.start();
show(location.hash.slice(2));
