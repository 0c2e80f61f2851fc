// What is wanted of a device, beside what it reports; nothing is sent before the difference has been seen.

import { get, post, put } from "./api.js";
import { h } from "./dom.js";
import { act, ask, button, latest, reason, since, word } from "./parts.js";
import { number, t } from "./words.js";

const SECTIONS = "streams, engines, serving, telemetry, outbox";
const OUTCOMES = { applied: ["good", "as desired"], trying: ["warn", "is being tried"], refused: ["bad", "refused"], waiting: ["warn", "not yet as desired"] };

export function settings(body, context) {
  const { address, app } = context;
  const input = h("textarea.code", { rows: 18, spellcheck: "false", "aria-label": t("Desired state as JSON"), readonly: !app.can("operator") });
  const error = h("p.error", { role: "alert", hidden: true });
  const differences = h("div");
  const desired = h("p.meta");
  const reported = h("div");
  const check = button(t("Show what would change"), (event) => act(event.target, compare), "primary", { hidden: !app.can("operator") });
  body.append(h("div.halves",
    h("section", h("h2", t("Desired")), h("p.hint", t("Sections of the settings file that the hub may set: {names}. All else is decided on the device.", { names: SECTIONS })), desired, input, error, h("div.actions", check), differences),
    h("section", h("h2", t("Reported")), reported)));
  let revision = null;
  let loaded = false;

  const parsed = () => {
    try {
      return JSON.parse(input.value);
    } catch (problem) {
      throw new Error(t("This is no JSON: {error}", { error: problem.message }));
    }
  };
  const tell = (text) => { error.textContent = text; error.hidden = !text; };
  const compare = async () => {
    differences.replaceChildren();
    tell("");
    try {
      const state = parsed();
      const { changes } = await post(`${address}/desired/diff`, { state });
      differences.replaceChildren(...difference(changes, () => send(state)));
    } catch (problem) {
      tell([`${reason(problem)}.`, ...(problem.problem?.errors ?? []).map(({ field, message }) => `${field}: ${message}`)].join(" "));
    }
  };
  const send = (state) => ask(t("Send to {device}?", { device: context.name }), [h("p", t("The device takes it over as soon as it is connected, and reports what became of it."))], t("Send"), async () => {
    await put(`${address}/desired`, { state, revision });
    differences.replaceChildren(h("p.sent", { role: "status" }, t("Sent. What the device makes of it shows under Reported.")));
    loaded = false;
    await load();
  });
  const draw = latest(([found, device]) => {
    if (!loaded) input.value = JSON.stringify(found.state ?? {}, null, 2);
    loaded = true;
    revision = found.revision;
    desired.replaceChildren(...(found.revision ? [t("Revision {n}", { n: number(found.revision, 0) }), found.by && ` · ${t("by {name}", { name: found.by })}`, " · ", since(found.at), !found.sent && ` · ${t("waits for the broker")}`] : [t("Nothing is desired of this device yet.")]).filter(Boolean));
    if (device) reported.replaceChildren(...report(device, found.outcome));
  });
  const load = (device = context.device) => draw(get(`${address}/desired`).then((found) => [found, device])).catch((problem) => tell(`${reason(problem)}.`));
  if (!context.device) load();
  input.addEventListener("input", () => differences.replaceChildren());
  return { update: load };
}

function difference(changes, send) {
  if (changes.length === 0) return [h("p.empty", t("Nothing would change."))];
  const value = (given) => (given === null || given === undefined ? h("span.meta", t("nothing")) : h("code", JSON.stringify(given)));
  return [
    h("h3", t("What would change")),
    h("ul.diff", changes.map(({ path, before, after }) => h("li", h("strong", word(path)), h("div.before", "− ", value(before)), h("div.after", "+ ", value(after))))),
    button(t("Send …"), send, "primary"),
  ];
}

function report({ reported, reported_at: at }, outcome) {
  const [kind, text] = OUTCOMES[outcome] ?? [];
  const pill = kind && h("p", h(`span.pill.${kind}`, t(text)));
  if (!reported) return [pill, h("p.empty", t("This device has not reported anything yet."))].filter(Boolean);
  const errors = [reported.errors ?? []].flat();
  return [
    h("p.meta", reported.revision ? t("Revision {n} holds", { n: number(reported.revision, 0) }) : t("Its own settings file holds alone"), at && [" · ", since(at)]),
    pill,
    errors.length > 0 && h("div.card.firing", { role: "alert" }, h("div", h("strong", outcome === "refused" ? t("The device refuses it, and goes on as before") : t("The device says")), errors.map((one) => h("p", word(one))))),
    h("pre.state", JSON.stringify(reported.state ?? {}, null, 2)),
  ].filter(Boolean);
}
