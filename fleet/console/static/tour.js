// What `make hub` brings to try out: simulated devices that can be switched off.

import { get, post } from "./api.js";
import { h } from "./dom.js";
import { act, button } from "./parts.js";
import { t } from "./words.js";

export const GROUP = "simulated";
const OFF = { name: "misbehave", args: { fault: "off", for_s: 180 } };

export const switchOff = (device) => button(t("Switch {device} off", { device }), (event) =>
  act(event.target, () => post(`devices/${encodeURIComponent(device)}/commands`, OFF), t("{device} is switched off for three minutes", { device })), "primary");

export async function tour(box) {
  const { devices } = await get(`devices?group=${GROUP}&limit=3`);
  if (devices.length === 0) return;
  box.replaceChildren(h("div.card.tour", h("div.grow", h("strong", t("Try it out")),
    h("p", t("These devices are simulated. Switch one off, and watch it in the list: after 15 seconds it is stale, after 30 offline, a minute or two later there is an alert, and after three minutes it is back, with nothing lost."))),
  h("div.actions", devices.map(({ device }) => switchOff(device)))));
}
