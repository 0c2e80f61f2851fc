// What a device was told to do, and what it answered.

import { get, post } from "./api.js";
import { h } from "./dom.js";
import { calmly, listen } from "./live.js";
import { act, ask, button, choice, field, fill, since, table, word } from "./parts.js";
import { clock, t } from "./words.js";

const KNOWN = [
  ["status", "Ask how it is", "It answers with the state of its uplink and streams."],
  ["reload", "Read its settings again", "Streams whose settings have changed start anew."],
  ["rebirth", "Introduce itself again", "It sends its birth and its reported state once more."],
];
const STATE = { queued: ["plain", "waits for the broker"], sent: ["plain", "waits for the device"], done: ["good", "done"], failed: ["bad", "failed"], expired: ["warn", "expired: the device did not take it in time"] };
const REFRESH_MS = 2000;

export function commands(body, context) {
  const { name, address, app } = context;
  const box = h("div");
  let waiting = null;
  const load = calmly(() => fill(box, get(`${address}/commands`).then(({ commands: list }) => {
    clearTimeout(waiting);
    if (list.some(({ state }) => state === "sent" || state === "queued")) waiting = setTimeout(load, REFRESH_MS);
    if (box.querySelector("details[open]")) return [...box.children];
    return table([t("Command"), t("State"), t("Sent"), t("By"), t("Reply")], list.map(row), { label: t("Commands"), empty: t("Nothing has been asked of this device yet.") });
  })), 500);
  const send = (command, args) => post(`${address}/commands`, { name: command, args });
  if (app.can("operator")) {
    const card = (text, hint, label, action) => h("div.card.command", h("div.grow", h("strong", text), h("p.meta", hint)), button(label, action, "quiet", { "aria-label": `${label}: ${text}` }));
    body.append(h("div.cards",
      KNOWN.map(([command, text, hint]) => card(t(text), t(hint), t("Send"), (event) => act(event.target, () => send(command, {}).then(load), t("Sent")))),
      card(t("Restart a stream"), t("Its camera is opened anew and its models are loaded again. The other streams go on."), t("Choose …"), () => restart(context.device, send, load)),
      card(t("Tune its models"), t("It measures again what runs them best, beside its streams, and takes that up by itself."), t("Choose …"), () => tune(context.device, send, load))),
    h("p", button(t("Another command …"), () => another(send, load))));
  }
  body.append(h("h2", t("Sent before")), box);
  load();
  const deaf = listen("device", (told) => { if (told.device === name) load(); });
  return { leave() { deaf(); clearTimeout(waiting); } };
}

function restart(device, send, load) {
  const names = Object.keys(device?.reported?.state?.streams ?? {});
  const input = names.length ? choice("stream", names.map((stream) => [stream, stream])) : h("input", { name: "stream", required: true, maxlength: 63, autocomplete: "off" });
  ask(t("Restart a stream"), [field(t("Stream"), input)], t("Send"), async ({ elements }) => { await send("restart-stream", { stream: elements.stream.value }); }, "primary", load);
}

function tune(device, send, load) {
  const engines = device?.reported?.state?.engines;
  const names = [...new Set((Array.isArray(engines) ? engines : []).map((one) => word(one?.model).split("@")[0]).filter(Boolean))];
  ask(t("Tune its models"), [
    field(t("Model"), choice("model", [["", t("all in use")], ...names.map((model) => [model, model])])),
    field(t("Seconds for each"), h("input", { name: "budget", type: "number", min: 1, max: 3600, value: 60, required: true }), t("The longer, the more it can compare. The streams may be slower meanwhile.")),
  ], t("Send"), async ({ elements }) => {
    await send("tune", { budget_s: Number(elements.budget.value), ...(elements.model.value ? { model: elements.model.value } : {}) });
  }, "primary", load);
}

function another(send, load) {
  ask(t("Another command"), [
    field(t("Name"), h("input", { name: "command", required: true, maxlength: 63, pattern: "[a-z0-9][a-z0-9._\\-]*", autocomplete: "off" }), t("Lower-case letters, digits, dots and dashes")),
    field(t("Arguments"), h("textarea", { name: "args", rows: 5, spellcheck: "false" }, "{}"), t("A JSON object")),
  ], t("Send"), async ({ elements }) => {
    let args;
    try {
      args = JSON.parse(elements.args.value);
    } catch (error) {
      throw new Error(t("The arguments are no JSON: {error}", { error: error.message }));
    }
    await send(elements.command.value, args);
  }, "primary", load);
}

function row({ name, args, by, at, state, reply, reply_at: replied }) {
  const [kind, text] = STATE[state] ?? ["plain", state];
  const begun = name === "tune" && reply?.ok && t("It goes on; ask how it is to see what became of it.");
  const answer = reply && h("details.raw", h("summary", begun || [reply.code, reply.detail].filter(Boolean).join(": ") || t("Details")), h("pre", JSON.stringify(reply.result ?? reply, null, 2)));
  return [h("span", name, Object.keys(args ?? {}).length > 0 && h("div.meta", JSON.stringify(args))), h(`span.pill.${kind}`, t(text)), since(at), by, [answer || "–", replied && h("span.meta", clock(replied))]];
}
