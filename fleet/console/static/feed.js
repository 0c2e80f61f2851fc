// A list of events, newest first, that grows at its end on demand and at its head as things happen.

import { search, to } from "./address.js";
import { get } from "./api.js";
import { h } from "./dom.js";
import { calmly, listen } from "./live.js";
import { button, reason } from "./parts.js";
import { thumbnail } from "./pictures.js";
import { sentence } from "./sentences.js";
import { ago, clock, counted, moment, span, t } from "./words.js";

const PAGE = 50;
const SHOWN = 300;
const LATE_S = 60;
const DRAW_MS = 250;

// `query`: filters of the events; `mine`: whether an event that just came belongs here.
export class Feed {
  constructor(query, { row = item, mine = () => true, empty, list = h("ol.events", { "aria-label": t("Events, newest first") }) }) {
    Object.assign(this, { query, row, mine, list, nothing: empty });
    this.next = null;
    this.shown = new Set();
    this.waiting = [];
    this.came = 0;
    this.more = button(t("Show older ones"), () => this.load(), "quiet.wide", { hidden: true });
    this.empty = h("p.empty", { hidden: true, role: "status" });
    this.waitingButton = button("", () => this.restart(), "primary.wide", { hidden: true });
    this.element = h("div", this.waitingButton, list, this.empty, this.more);
    this.draw = calmly(() => this.arrived(), DRAW_MS);
    this.deaf = [
      listen("event", (event) => { if (this.mine(event)) this.wait(event); }),
      listen("picture", ({ event }) => this.pictured(event)),
      listen("again", () => this.restart()),
    ];
    this.restart();
  }

  restart() {
    this.waiting = [];
    this.came = 0;
    this.load(true);
  }

  // `anew`: the newest in place of all that is shown; what comes meanwhile waits.
  async load(anew = false) {
    if (this.renewing && !anew) return;
    this.renewing = anew;
    const asked = (this.asked = (this.asked ?? 0) + 1);
    try {
      const page = await get(`events?${search({ ...this.query, limit: PAGE, before: anew ? null : this.next })}`);
      if (asked !== this.asked) return;
      if (anew) { this.list.replaceChildren(); this.shown.clear(); this.stale = false; }
      page.events.forEach((event) => this.add(event, false));
      this.next = page.next;
      this.renewing = false;
      this.arrived();
    } catch (error) {
      if (asked !== this.asked) return;
      this.stale ||= anew;
      this.renewing = false;
      this.empty.textContent = `${reason(error)}.`;
      this.empty.hidden = false;
    }
  }

  // Of what is more than the list holds only the number counts.
  wait(event) {
    this.came += 1;
    if (this.came <= SHOWN) this.waiting.push(event);
    this.draw();
  }

  // A reader who has gone down the list, or has opened an entry, is not disturbed. A list that grows too long begins anew: nothing between
  // what it shows and the older ones is left out.
  arrived() {
    if (this.renewing) return;
    const reading = this.list.getBoundingClientRect().top < 0 || this.list.querySelector("details[open]");
    if (!reading && (this.stale || (this.came > 0 && this.list.children.length + this.came > SHOWN))) {
      this.restart();
      return;
    }
    if (!reading) {
      this.waiting.splice(0).forEach((event) => this.add(event, true));
      this.came = 0;
    }
    this.settle();
  }

  add(event, fresh) {
    if (this.shown.has(event.id)) return;
    this.shown.add(event.id);
    const element = this.row(event);
    if (!element) return;
    element.dataset.event = event.id;
    if (fresh) {
      element.classList.add("fresh");
      this.list.prepend(element);
    } else this.list.append(element);
  }

  // The picture of an event comes after it.
  pictured(id) {
    const waiting = this.waiting.find((one) => one.id === id);
    if (waiting) waiting.picture = true;
    const place = this.list.querySelector(`[data-event="${CSS.escape(id)}"] .unpictured`);
    if (place) thumbnail({ id, at: Number(place.dataset.at), picture: true }, place.dataset.as, place);
  }

  settle() {
    this.empty.textContent = this.nothing;
    this.empty.hidden = this.list.children.length > 0;
    this.more.hidden = this.next === null;
    this.waitingButton.hidden = this.came === 0;
    this.waitingButton.textContent = counted(this.came, "Show {n} new event", "Show {n} new events");
  }

  leave() {
    this.deaf.forEach((stop) => stop());
  }
}

export function time(event) {
  const late = event.received_at - event.at;
  const notes = [
    event.clock === "unsynced" && t("clock of the device not synchronised"),
    late > LATE_S && t("came {span} late", { span: span(late) }),
  ].filter(Boolean);
  return [h("time", { title: `${moment(event.at)} (${ago(event.at)})` }, clock(event.at)), notes.length > 0 && ` · ${notes.join(" · ")}`];
}

export function item(event) {
  const { who, text, kind } = sentence(event);
  return h(`li.${kind}`,
    h("span.dot", { "aria-hidden": "true" }),
    h("div.grow", h("p", who && h("strong", who), " ", text),
      h("p.meta", time(event), " · ", h("a", { href: to("device", [event.device]) }, event.device), event.stream && ` · ${event.stream}`),
      details(event)), thumbnail(event));
}

export function details(event) {
  const text = h("pre");
  return h("details.raw", { ontoggle: () => { text.textContent = JSON.stringify(event, null, 2); } }, h("summary", t("Details")), text);
}

// A page of one feed below its filters; `made` gives the feed for a query.
export function feedPage(main, here, head, filters, made, place = h("div")) {
  let feed = null;
  const show = (query) => {
    feed?.leave();
    feed = made(query);
    place.replaceChildren(feed.element);
  };
  main.append(...head, filters, place);
  show(here.query);
  return { moved: ({ query }) => show(query), leave: () => feed.leave() };
}
