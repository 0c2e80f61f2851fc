// Live pictures. A picture that nobody sees is not asked for, so that the device need not draw it.

import { get } from "./api.js";
import { byId, h, pill } from "./dom.js";
import { addPerson } from "./people.js";

const REFRESH_MS = 2000;
const AT_ONCE = 3; // browsers allow six connections to a host; events and requests need theirs
const cards = new Map();
let timer = null;

export const STATE = { running: "good", finished: "", connecting: "warn", frozen: "warn", covered: "warn", failed: "bad" };

export function awake(on) {
  clearInterval(timer);
  timer = null;
  if (on) {
    refresh();
    timer = setInterval(refresh, REFRESH_MS);
  } else {
    for (const card of cards.values()) card.stop();
  }
}

async function refresh() {
  const box = byId("streams");
  try {
    const streams = await get("streams");
    if (timer === null) return;
    for (const [name, card] of cards) {
      if (!streams.some((stream) => stream.stream === name)) {
        card.element.remove();
        cards.delete(name);
      }
    }
    box.querySelectorAll(".empty").forEach((element) => element.remove());
    for (const stream of streams) {
      if (!cards.has(stream.stream)) {
        const card = new Card(stream.stream);
        cards.set(stream.stream, card);
        box.append(card.element);
      }
      cards.get(stream.stream).update(stream);
    }
    if (streams.length === 0) box.replaceChildren(h("p.empty", "No stream is configured. Add one under “streams” in the settings file."));
  } catch (error) {
    for (const card of cards.values()) card.stop();
    if (cards.size === 0) box.replaceChildren(h("p.empty", `${error.message}.`));
    else for (const card of cards.values()) card.lost(error.message);
  }
}

class Card {
  constructor(name) {
    this.name = name;
    this.image = null;
    this.paused = false;
    this.message = h("p.over", "Waiting for the picture …");
    this.picture = h("div.picture", this.message);
    this.state = h("span.pill");
    this.rate = h("span.rate");
    this.toggle = h("button.quiet", { onclick: () => this.press(), type: "button" }, "Pause");
    this.enrol = h("button.quiet", { onclick: () => addPerson({ stream: name }), type: "button", title: "Enrol somebody from this picture", "aria-label": `Add a person from the picture of ${name}` }, "Add person");
    this.element = h("figure.card.stream", { "aria-label": `Stream ${name}` }, this.picture,
      h("figcaption", h("strong", name), this.state, this.rate, h("span.actions", this.toggle, this.enrol)));
  }

  update(stream) {
    pill(this.state, stream.state, STATE[stream.state] ?? "", stream.detail);
    const expected = stream.expected_per_second ? ` of ${stream.expected_per_second.toFixed(0)}` : "";
    this.rate.textContent = `${stream.processed_per_second.toFixed(1)}${expected} frames/s`;
    this.enrol.disabled = !stream.last_frame_at;
    const trouble = stream.state === "failed" || stream.state === "connecting";
    if (trouble) this.say([stream.code, stream.detail].filter(Boolean).join(": ") || "Connecting …");
    const playing = [...cards.values()].filter((card) => card.image).length;
    if (!this.image && !this.paused && stream.last_frame_at && playing < AT_ONCE) this.play();
    else if (!this.image && !this.paused && playing >= AT_ONCE) this.say(`Press “Show”: ${AT_ONCE} pictures are shown at once.`);
    this.toggle.textContent = this.image ? "Pause" : "Show";
  }

  press() {
    if (this.image) {
      this.paused = true;
      this.stop();
      this.say("Paused.");
    } else {
      const others = [...cards.values()].filter((card) => card.image);
      if (others.length >= AT_ONCE) others[0].press();
      this.paused = false;
      this.play();
    }
    this.toggle.textContent = this.image ? "Pause" : "Show";
  }

  play() {
    this.image = h("img", { alt: `Live picture of ${this.name} with boxes and names`, onerror: () => this.stop(), onload: () => { this.message.hidden = true; } });
    this.image.src = `/api/1/streams/${encodeURIComponent(this.name)}/live.mjpg?${Date.now()}`;
    this.picture.prepend(this.image);
  }

  stop() {
    if (!this.image) return;
    this.image.src = "/static/icon.svg"; // ends the endless answer
    this.image.remove();
    this.image = null;
    this.say("Waiting for the picture …");
  }

  say(text) {
    this.message.textContent = text;
    this.message.hidden = false;
  }

  lost(text) {
    pill(this.state, "no answer", "bad");
    this.rate.textContent = "";
    this.say(`${text}.`);
  }
}
