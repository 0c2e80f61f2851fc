// What needs somebody, what was seen to, and the rules behind it.

import { refine, search, to } from "./address.js";
import { get, post, put } from "./api.js";
import { h, renew } from "./dom.js";
import { filtered, typed } from "./filters.js";
import { calmly, listen } from "./live.js";
import { windows } from "./maintenance.js";
import { act, ask, button, choice, failure, field, fill, latest, since, table } from "./parts.js";
import { HUB, RULES } from "./rules.js";
import { clock, number, span, t, told } from "./words.js";

const LIMITS = { above: "fires from", below: "fires below", clear: "over at", ahead_s: "seconds ahead", behind_s: "seconds behind", days: "days left" };
const REFRESH_MS = 2000;
const PAGE = 50;
const MOST = 500;

export const ruleText = (rule) => t(RULES[rule]?.text ?? rule);

export function open(main, here, app) {
  const watched = h("div.apart");
  const rules = h("div");
  let query = here.query;
  const now = new Pages(() => ({ ...query, state: "firing" }), (alerts) => firing(alerts, app, load, query));
  const before = new Pages(() => ({ ...query, state: "resolved" }), (alerts) => resolved(alerts, query));
  const load = calmly(() => { now.load(); before.load(); }, REFRESH_MS);
  const loadWindows = () => fill(watched, windows(app, () => { loadWindows(); load(); }));
  const loadRules = () => fill(rules, get("rules").then(({ rules: list }) => ruleTable(list, app, loadRules)));
  main.append(h("div.heading", h("h1", t("Alerts"))), bar(query), now.element, watched, h("h2", t("Over")), before.element, h("h2", t("Rules")), rules);
  load();
  loadWindows();
  loadRules();
  const deaf = [listen("alert", load), listen("again", load)];
  return {
    moved(there) {
      query = there.query;
      now.load(true);
      before.load(true);
    },
    leave: () => deaf.forEach((stop) => stop()),
  };
}

function bar(query) {
  const rule = choice("rule", [["", t("all")], ...Object.keys(RULES).map((name) => [name, ruleText(name)])], query.rule);
  rule.addEventListener("change", () => refine({ rule: rule.value }));
  const clear = button(t("Clear filters"), () => {
    for (const element of form.elements) if ("value" in element) element.value = "";
    refine({ device: "", site: "", rule: "" });
  });
  const form = h("form.bar", { role: "search", onsubmit: (event) => event.preventDefault() }, typed("device", query), typed("site", query), h("label", t("Rule"), rule), clear);
  return form;
}

// Alerts page by page, newest first; what is shown is asked for again when something has happened.
class Pages {
  constructor(query, drawn) {
    this.query = query;
    this.alerts = [];
    this.next = null;
    this.box = h("div");
    this.more = button(t("Show older ones"), () => this.load(false, this.next), "quiet.wide", { hidden: true });
    this.element = h("div", this.box, this.more);
    this.draw = latest(([page, before]) => {
      this.alerts = before ? [...this.alerts, ...page.alerts] : page.alerts;
      this.next = page.next;
      this.more.hidden = this.next === null;
      renew(this.box, ...[drawn(this.alerts)].flat());
    });
  }

  load(anew = false, before = null) {
    const limit = anew || before ? PAGE : Math.min(MOST, Math.max(PAGE, this.alerts.length));
    this.draw(get(`alerts?${search({ ...this.query(), limit, before })}`).then((page) => [page, before]))
      .catch((error) => this.box.replaceChildren(failure(error)));
  }
}

const device = (name) => (name === HUB.name ? t(HUB.text) : h("a", { href: to("device", [name]) }, name));

const seen = (alert) => Boolean(alert.acknowledged_by || alert.maintenance);

function firing(alerts, app, load, query) {
  if (alerts.length === 0) return filtered(query) ? h("p.empty", t("No alert is like that. Take a filter away.")) : h("p.empty.good", t("All is well: no alert is firing."));
  const sorted = [...alerts].sort((a, b) => seen(a) - seen(b) || b.since - a.since);
  return sorted.map((alert) => h(`div.card.firing${seen(alert) ? ".known" : ""}`,
    h("div.grow",
      h("p", device(alert.device), alert.stream && ` · ${alert.stream}`, ": ", h("strong", ruleText(alert.rule)), " · ", since(alert.since), " ", alert.maintenance && h("span.pill.plain", t("in maintenance: nobody is told"))),
      alert.detail && h("p", told(alert.detail)), RULES[alert.rule] && h("p.meta", t((alert.device === HUB.name ? HUB : RULES[alert.rule]).todo)), people(alert)),
    alert.acknowledged_by ? h("span.meta", t("Acknowledged by {name}", { name: alert.acknowledged_by }))
      : app.can("operator") && button(t("Acknowledge"), (event) => act(event.target, () => post(`alerts/${alert.id}/acknowledge`).then(load), t("Acknowledged")), "quiet", { "aria-label": `${t("Acknowledge")}: ${alert.device}, ${ruleText(alert.rule)}` })));
}

const way = (name) => (name === "email" ? t("by e-mail") : name.replace("webhook:", ""));

// Who was told that an alert began, and what stands in the way of telling others.
function people({ notified }) {
  const of = (list) => (list ?? []).filter(({ what }) => what === "firing");
  const sent = of(notified?.sent).map((one) => `${way(one.way)}, ${clock(one.at)}`);
  const stuck = [...of(notified?.pending), ...of(notified?.given_up)].filter(({ why }) => why);
  return [sent.length > 0 && h("p.meta", t("Told: {ways}", { ways: sent.join("; ") })),
    stuck.map((one) => h("p.meta.bad", t("Not told ({way}): {why}", { way: way(one.way), why: one.why })))];
}

const resolved = (alerts, query) => table([t("Device"), t("Alert"), t("From"), t("To"), t("Acknowledged by")], alerts.map((alert) => [
  device(alert.device), [ruleText(alert.rule), alert.stream && h("div.meta", alert.stream), alert.detail && h("div.meta", told(alert.detail))], clock(alert.since), clock(alert.until), alert.acknowledged_by || "–",
]), { label: t("Alerts that are over"), empty: filtered(query) ? t("No alert is like that. Take a filter away.") : t("Nothing has been wrong yet.") });

function ruleTable(list, app, load) {
  return table([t("Rule"), t("On"), t("Threshold"), t("After"), t("Tells"), ""], list.map((rule) => [
    [ruleText(rule.name), h("div.meta", rule.name)], h(`span.pill.${rule.enabled ? "good" : "plain"}`, rule.enabled ? t("on") : t("off")),
    threshold(rule), rule.for_s ? span(rule.for_s) : t("at once"), notified(rule.notify),
    app.can("admin") && button(t("Change"), () => change(rule, load), "quiet", { "aria-label": `${t("Change")}: ${ruleText(rule.name)}` }),
  ]), { label: t("Rules"), empty: t("There are no rules.") });
}

const unit = (rule) => t(RULES[rule.name]?.unit ?? "");

const threshold = (rule) => Object.entries(rule.threshold ?? {}).map(([name, value]) => `${t(LIMITS[name] ?? name)} ${number(value, 2)} ${unit(rule)}`.trim()).join(", ") || "–";

function notified(notify) {
  if (!notify) return t("everybody");
  return [notify.email && t("by e-mail"), ...(notify.webhooks ?? [])].filter(Boolean).join(", ") || t("nobody");
}

function change(rule, load) {
  const { email, webhooks = [] } = rule.notify ?? {};
  const some = h("div", { hidden: !rule.notify }, h("label.switch", h("input", { type: "checkbox", name: "email", checked: email }), t("By e-mail")),
    field(t("Webhooks, separated by commas"), h("input", { name: "webhooks", value: webhooks.join(", "), autocomplete: "off" })));
  ask(ruleText(rule.name), [
    h("label.switch", h("input", { type: "checkbox", name: "enabled", checked: rule.enabled }), t("This rule is on")),
    field(t("Seconds it must last"), h("input", { name: "for_s", type: "number", min: 0, max: 86400, required: true, value: rule.for_s })),
    Object.entries(rule.threshold ?? {}).map(([name, value]) => field([`${t("Limit")}: ${t(LIMITS[name] ?? name)}`, unit(rule)].filter(Boolean).join(", "), h("input", { name: `limit-${name}`, type: "number", step: "any", required: true, value }))),
    h("label.switch", h("input", { type: "checkbox", name: "everybody", checked: !rule.notify, onchange: (event) => { some.hidden = event.target.checked; } }), t("Tell everybody that the settings of this hub name")),
    some,
  ], t("Save"), async ({ elements }) => {
    const names = elements.webhooks.value.split(",").map((name) => name.trim()).filter(Boolean);
    await put(`rules/${encodeURIComponent(rule.name)}`, {
      enabled: elements.enabled.checked, for_s: Number(elements.for_s.value), notify: elements.everybody.checked ? null : { email: elements.email.checked, webhooks: names },
      threshold: Object.fromEntries(Object.keys(rule.threshold ?? {}).map((name) => [name, Number(elements[`limit-${name}`].value)])),
    });
  }, "primary", load);
}
