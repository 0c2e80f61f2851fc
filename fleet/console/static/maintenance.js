// Where somebody works: nobody is told of alerts there before it is over.

import { to } from "./address.js";
import { erase, get, post } from "./api.js";
import { h } from "./dom.js";
import { overview } from "./overview.js";
import { act, ask, button, choice, field, table } from "./parts.js";
import { clock, t } from "./words.js";

const HOUR = 3600;
const LASTS = [["1", "1 hour"], ["4", "4 hours"], ["12", "12 hours"], ["24", "1 day"], ["168", "7 days"]];
const KINDS = { device: "Device", site: "Site", group: "Group" };

// `places`: [kind, name] of what can be chosen.
export function maintain(places, after) {
  const names = places.map(([kind, name]) => [`${kind}/${name}`, `${t(KINDS[kind])} ${name}`]);
  ask(t("Maintenance"), [
    h("p", t("Alerts go on, and nobody is told of them before it is over.")),
    field(t("Where"), choice("where", names)), field(t("It lasts"), choice("hours", LASTS.map(([hours, text]) => [hours, t(text)]), "4")),
    field(t("Why"), h("input", { name: "reason", maxlength: 200, autocomplete: "off" }), t("What the next person should know")),
  ], t("Begin"), async ({ elements }) => {
    const [kind, ...name] = elements.where.value.split("/");
    await post("maintenance", { kind, name: name.join("/"), ends: Date.now() / 1000 + Number(elements.hours.value) * HOUR, reason: elements.reason.value });
  }, "primary", after);
}

export async function windows(app, load) {
  const [{ maintenance: list }, { sites, groups }] = await Promise.all([get("maintenance"), overview()]);
  const places = [...sites.map((name) => ["site", name]), ...groups.map((name) => ["group", name])];
  return [
    h("div.heading", h("h2", t("Maintenance")), app.can("operator") && places.length > 0 && button(t("Begin maintenance …"), () => maintain(places, load))),
    table([t("Where"), t("From"), t("To"), t("Why"), t("By"), ""], list.map((window) => [
      [`${t(KINDS[window.kind])} `, h("a", { href: window.kind === "device" ? to("device", [window.name]) : to("fleet", [], { [window.kind]: window.name }) }, window.name)],
      clock(window.begins), clock(window.ends), window.reason || "–", window.by,
      app.can("operator") && button(t("End it"), (event) => act(event.target, () => erase(`maintenance/${window.id}`).then(load), t("It is over")), "quiet", { "aria-label": `${t("End it")}: ${window.name}` }),
    ]), { label: t("Maintenance"), empty: t("Nobody works on the fleet: people are told of every alert.") }),
  ];
}
