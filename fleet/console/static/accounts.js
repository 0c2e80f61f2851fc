// People and programs that may use this hub.

import { erase, get, post } from "./api.js";
import { h } from "./dom.js";
import { ask, button, choice, confirmed, field, fill, since, table } from "./parts.js";
import { clock, t } from "./words.js";

const ROLES = [["viewer", "viewer: sees everything"], ["operator", "operator: commands, settings, acknowledges"], ["admin", "admin: accounts, rules, erasure, too"]];
const DAY = 86400;
const LASTS = [["30", "30 days"], ["90", "90 days"], ["365", "a year"], ["", "no end"]];

export function open(main, _here, app) {
  const users = h("div");
  const keys = h("div");
  const load = () => {
    fill(users, get("users").then(({ users: list }) => userTable(list, app, load)));
    fill(keys, get("keys").then(({ keys: list }) => keyTable(list, load)));
  };
  main.append(
    h("div.heading", h("h1", t("Accounts")), button(t("Add a person"), () => addUser(load), "primary")), users,
    h("div.heading", h("h2", t("API keys")), button(t("Make a key"), () => addKey(load), "primary")),
    h("p.hint", t("For programs: they send it as `Authorization: Bearer …`. A key is shown once.")), keys);
  load();
  return { moved() {}, leave() {} };
}

const role = () => field(t("Role"), choice("role", ROLES.map(([name, text]) => [name, t(text)]), "viewer"));

const userTable = (list, app, load) => table([t("Name"), t("Role"), t("Since"), ""], list.map((user) => [
  user.name, t(user.role), user.created_at ? clock(user.created_at) : "–",
  user.name === app.me.name ? h("span.meta", t("you")) : button(t("Remove"), () => confirmed(t("Remove {name}?", { name: user.name }), t("Their sessions end at once."), t("Remove"), () => erase(`users/${encodeURIComponent(user.name)}`).then(load)), "danger", { "aria-label": `${t("Remove")}: ${user.name}` }),
]), { label: t("People"), empty: t("There is nobody.") });

const keyTable = (list, load) => table([t("Name"), t("Role"), t("Made"), t("Ends"), t("Last used"), ""], list.map((key) => [
  key.name, t(key.role), [clock(key.created_at), key.created_by && h("div.meta", t("by {name}", { name: key.created_by }))], key.expires_at ? clock(key.expires_at) : t("no end"), key.last_used_at ? since(key.last_used_at) : t("never"),
  button(t("Revoke"), () => confirmed(t("Revoke {name}?", { name: key.name }), t("Programs that use it are refused at once."), t("Revoke"), () => erase(`keys/${encodeURIComponent(key.id)}`).then(load)), "danger", { "aria-label": `${t("Revoke")}: ${key.name}` }),
]), { label: t("API keys"), empty: t("There are no keys.") });

function addUser(load) {
  ask(t("Add a person"), [
    field(t("Name"), h("input", { name: "name", required: true, maxlength: 64, autocomplete: "off" })),
    field(t("Password"), h("input", { name: "password", type: "password", required: true, minlength: 10, autocomplete: "new-password" }), t("At least ten characters")),
    role(),
  ], t("Save"), async ({ elements }) => { await post("users", { name: elements.name.value.trim(), password: elements.password.value, role: elements.role.value }); }, "primary", load);
}

function addKey(load) {
  const dialog = ask(t("Make a key"), [
    field(t("Name"), h("input", { name: "name", required: true, maxlength: 100, autocomplete: "off" }), t("What it is for")), role(),
    field(t("It lasts"), choice("lasts", LASTS.map(([days, text]) => [days, t(text)]), "90")),
  ], t("Make it"), async (form) => {
    const { name, role: chosen, lasts } = form.elements;
    const made = await post("keys", { name: name.value.trim(), role: chosen.value, expires_at: lasts.value ? Math.floor(Date.now() / 1000) + Number(lasts.value) * DAY : null });
    for (const label of form.querySelectorAll("label")) label.remove();
    dialog.querySelector("h2").after(h("p", t("Copy it now: it is not shown again.")), h("p", h("code.secret", { tabindex: 0 }, made.key)));
    form.querySelector("[type=submit]").remove();
    return true;
  }, "primary", load);
}
