// Who was seen where: one entry for each visit.

import { to } from "./address.js";
import { h } from "./dom.js";
import { details, Feed, feedPage, time } from "./feed.js";
import { asked, bar, filtered, matches } from "./filters.js";
import { word } from "./parts.js";
import { thumbnail } from "./pictures.js";
import { clock, number, span, t } from "./words.js";

const THERE_S = 300;
const FILTERS = ["subject", "device", "site", "stream"];

export function open(main, here) {
  const head = [h("div.heading", h("h1", t("Faces"))),
    h("p.hint", t("Each entry is one visit, from its first to its last picture. Strangers have a pseudonym that only their device knows; pictures stay on the device unless its own settings send them."))];
  return feedPage(main, here, head, bar(here.query, FILTERS), (query) => {
    const visits = new Map();
    return new Feed(asked(query, { kind: "face" }), {
      list: h("ol.visits", { "aria-label": t("Visits, newest first") }),
      row: (event) => visit(event, visits),
      mine: (event) => event.kind === "face" && matches(event, query, FILTERS),
      empty: filtered(query) ? t("Nobody like that was seen. Take a filter away, or look at another time.") : t("Nobody has been seen yet."),
    });
  });
}

// Several events tell of one visit; the newest of them says most. Events come newest first, or fresh at the head.
function visit(event, visits) {
  const data = event.data ?? {};
  const key = `${event.device}/${event.stream}/${data.track}`;
  const last = visits.get(key);
  const known = last?.element.parentNode ? last : null; // the list may have begun anew
  if (known && known.at >= event.at) {
    thumbnail(event, "a.avatar", known.element.querySelector("span.avatar") ?? undefined);
    return null;
  }
  const element = card(event, data);
  visits.set(key, { at: event.at, element });
  if (!known) return element;
  element.dataset.event = event.id;
  const picture = known.element.querySelector("a.avatar");
  if (picture && !event.picture) element.querySelector(".avatar").replaceWith(picture);
  known.element.replaceWith(element);
  return null;
}

function card(event, data) {
  const name = data.name ? word(data.name) : (data.decision === "known" ? t("Somebody (erased)") : [t("Unknown"), data.cluster].filter(Boolean).join(" "));
  const ended = typeof data.ended_at === "number";
  const stay = ended ? t("{from}, for {span}", { from: clock(data.started_at), span: span(data.ended_at - data.started_at) }) : t("since {from}", { from: clock(data.started_at ?? event.at) });
  const sure = typeof data.distance === "number" && typeof data.threshold === "number" && t("distance {distance}, limit {threshold}", { distance: number(data.distance, 2), threshold: number(data.threshold, 2) });
  return h("li.card.visit",
    thumbnail(event, "a.avatar", h(`span.avatar.${data.name ? "known" : "unknown"}`, { "aria-hidden": "true" }, data.name ? name.trim().slice(0, 1).toUpperCase() : "?")),
    h("div.grow",
      h("p", h("strong", name), " ", !ended && Date.now() / 1000 - event.at < THERE_S && h("span.pill.good", t("there now"))),
      h("p", h("a", { href: to("device", [event.device]) }, event.device), ` · ${event.stream}`),
      h("p.meta", stay, sure && ` · ${sure}`, data.decision === "undecided" && ` · ${t("not decided")}`),
      h("p.meta", t("last word"), " ", time(event)),
      event.subject && h("a.meta", { href: to("faces", [], { subject: event.subject }) }, t("All visits of this person")), details(event)));
}
