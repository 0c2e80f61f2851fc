// Everything that any device saw, and when.

import { search } from "./address.js";
import { h } from "./dom.js";
import { Feed, feedPage } from "./feed.js";
import { asked, bar, filtered, KINDS, matches } from "./filters.js";
import { t } from "./words.js";

const FILTERS = ["device", "site", "stream", "kind", "subject"];

export function open(main, here) {
  const csv = h("a.button.quiet", { download: true }, t("Download as CSV"));
  const head = [h("div.heading", h("h1", t("Events")), csv)];
  return feedPage(main, here, head, bar(here.query, FILTERS, KINDS), (query) => {
    csv.href = `${document.documentElement.dataset.api}events.csv?${search(asked(query))}`;
    return new Feed(asked(query), {
      mine: (event) => matches(event, query, FILTERS),
      empty: filtered(query) ? t("Nothing like that has happened. Take a filter away, or look at another time.") : t("No event has reached this hub yet."),
    });
  }, h("div.card.feed"));
}
