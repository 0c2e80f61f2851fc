// What models said of radiographs.

import { to } from "./address.js";
import { h } from "./dom.js";
import { details, Feed, feedPage, time } from "./feed.js";
import { asked, bar, filtered, matches } from "./filters.js";
import { word } from "./parts.js";
import { number, t } from "./words.js";

const FILTERS = ["subject", "device", "site"];
const WHY = {
  __proto__: null, unusable: "it cannot be used", tags: "no frontal chest radiograph, by its tags", pixels: "no frontal chest radiograph, by its picture", unfamiliar: "unlike what the model has learned from",
  margin: "the scores are too close to each other",
};

export function open(main, here) {
  const head = [h("div.heading", h("h1", t("Studies"))),
    h("p.hint", t("Unverified output of a machine, not for diagnosis without a physician’s review. Pictures and heat maps stay on the device; nothing here leads to the patient."))];
  return feedPage(main, here, head, bar(here.query, FILTERS), (query) => new Feed(asked(query, { kind: "study" }), {
    list: h("ol.studies", { "aria-label": t("Studies, newest first") }),
    row: study,
    mine: (event) => event.kind === "study" && matches(event, query, FILTERS),
    empty: filtered(query) ? t("No study is like that. Take a filter away, or look at another time.") : t("No study has been answered yet."),
  }));
}

function study(event) {
  const data = event.data ?? {};
  const answered = data.decision !== null && data.decision !== undefined;
  const scores = Object.entries(data.scores ?? {}).filter(([, score]) => typeof score === "number").sort(([, a], [, b]) => b - a);
  return h("li.card.visit",
    h("div.grow",
      h("p", h("strong", t("Radiograph {item}", { item: word(data.item).slice(0, 8) })), " ",
        h(`span.pill.${answered ? "plain" : "warn"}`, answered ? word(data.decision) : t("no answer")), " ", h("span.meta", [data.modality, data.view].map(word).join(" "))),
      !answered && h("p", t(WHY[data.abstained] ?? ""), data.reason && h("span.meta", ` ${data.reason}`)),
      scores.map(([label, score]) => h("p.score", h("span", label), h("meter", { min: 0, max: 1, value: score, "aria-label": label }), h("span.meta", number(score, 2),
        label === data.positive && typeof data.threshold === "number" && ` · ${t("limit {threshold}", { threshold: number(data.threshold, 2) })}`))),
      h("p.meta", time(event), " · ", h("a", { href: to("device", [event.device]) }, event.device), event.model && ` · ${event.model}`, data.heat_map && ` · ${t("heat map on the device")}`),
      details(event)));
}
