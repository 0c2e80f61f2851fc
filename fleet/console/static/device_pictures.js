// A device's live picture, and snapshots of its streams. Whether there are any is decided by the device's own settings.

import { get, post } from "./api.js";
import { h } from "./dom.js";
import { act, button, fill, since, word } from "./parts.js";
import { address as place, door } from "./pictures.js";
import { number, span, t } from "./words.js";

const LOOK_MS = 700;
const PATIENCE_MS = 30_000;
const FOLLOW_MS = 2000;
const SILENT_S = 5;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export function pictures(body, { name, address, app }) {
  const live = h("div");
  const actions = h("div.cards");
  const kept = h("div");
  const note = h("div");
  let drawn = "";
  let left = false;

  const end = (text = "") => live.replaceChildren(text && h("p.empty", { role: "status" }, text));
  const look = async (stream) => {
    end(t("The device is asked …"));
    try {
      const view = await post(`${address}/live`, { stream });
      if (left) return;
      const state = h("span.pill.warn", t("the device's page shows that somebody looks"));
      const image = h("img.live", { src: place(`live-pictures/${view.id}`), alt: t("Live picture of {stream}", { stream }), onerror: () => end(t("The live picture has ended.")) });
      const stop = button(t("Stop looking"), () => { image.src = ""; end(); }, "primary");
      live.replaceChildren(h("div.card.watching", h("div.heading", h("h2", `${t("Live picture of {stream}", { stream })} `, state), stop), image));
      follow(view.id, state);
    } catch (error) {
      end();
      throw error;
    }
  };
  // The last picture looks like any other: whether it still moves is asked.
  const follow = async (id, pill) => {
    while (pill.isConnected) {
      await pause(FOLLOW_MS);
      const { ended, silent_s: silent } = await get(`live-views/${id}`).catch(({ message }) => ({ ended: message }));
      if (ended && pill.isConnected) end(t("The live picture has ended: {reason}.", { reason: t(ended) }));
      pill.textContent = silent > SILENT_S ? t("no new picture for {span}", { span: span(silent) }) : t("the device's page shows that somebody looks");
    }
  };
  const snapshots = () => fill(kept, get(`${address}/snapshots`).then(({ snapshots: list }) => (list.length === 0
    ? h("p.empty", t("There is no snapshot yet."))
    : h("ul.snapshots", list.map((one) => h("li.card", shown(`${address}/snapshots/${one.id}`, one), h("p.meta", one.stream, " · ", since(one.at))))))));
  const shown = (path, { stream }) => h("a", { href: place(path), target: "_blank", rel: "noopener" }, h("img", { src: place(path), loading: "lazy", alt: t("Snapshot of {stream}", { stream }) }));
  const snap = async (stream) => {
    const { id } = await post(`${address}/commands`, { name: "snapshot", args: { stream } });
    await done(id);
    snapshots();
  };
  const stream = (one, allowed) => h("div.card.command", h("strong.grow", one),
    allowed.pictures && app.can("operator") && button(t("Take a snapshot"), (event) => act(event.target, () => snap(one)), "quiet", { "aria-label": `${t("Take a snapshot")}: ${one}` }),
    allowed.live && button(t("Look"), (event) => act(event.target, () => look(one)), "quiet", { "aria-label": `${t("Look")}: ${one}` }));

  const update = async ({ reported, telemetry }) => {
    note.replaceChildren(...doing(telemetry?.mqtt ?? {}));
    const state = reported?.state ?? {};
    const allowed = state.hub ?? {};
    const streams = Object.keys(state.streams ?? {}).map(word);
    const key = JSON.stringify([allowed, streams]);
    if (key === drawn) return;
    drawn = key;
    const { open, mine } = await door();
    if (!open) actions.replaceChildren(h("p.empty", t("This hub has no door by which devices could send pictures: see `door` in its settings.")));
    else if (!mine) actions.replaceChildren(h("p.empty", t("Your role may not look at pictures.")));
    else if (!allowed.live && !allowed.pictures) actions.replaceChildren(h("p.empty", t("No picture leaves this device: its own settings (`hub`) do not allow it, and nobody can change that from here.")));
    else actions.replaceChildren(...streams.map((one) => stream(one, allowed)));
    kept.hidden = !open || !mine;
    if (open && mine) snapshots();
  };

  body.append(live, actions, note, h("h2", t("Snapshots")), kept);
  return { update, leave() { left = true; live.querySelector("img")?.removeAttribute("src"); } };
}

// How pictures of events get on, as the device says in its telemetry.
function doing({ door_trouble: trouble, pictures_waiting: waiting, pictures_lost: lost }) {
  return [
    trouble && h("p.empty.bad.apart", { role: "status" }, t("Pictures do not reach the hub: {reason}. See `hub` in the settings of the device; `almena doctor` there tells more.", { reason: word(trouble) })),
    (waiting > 0 || lost > 0) && h("p.meta.apart", t("Pictures of events that wait on the device: {waiting}; lost since it started: {lost}.", { waiting: number(waiting, 0), lost: number(lost, 0) })),
  ].filter(Boolean);
}

// Waits for what becomes of a command; a failure is an error.
async function done(id) {
  const until = Date.now() + PATIENCE_MS;
  for (;;) {
    const { state, reply } = await get(`commands/${id}`);
    if (state === "done") return;
    if (state === "failed" || state === "expired" || Date.now() > until) throw new Error(reply?.detail || t("the device did not answer in time"));
    await pause(LOOK_MS);
  }
}
