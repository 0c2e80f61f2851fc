// Who changed what, and when.

import { search } from "./address.js";
import { get } from "./api.js";
import { h } from "./dom.js";
import { button, failure, table } from "./parts.js";
import { clock, moment, t } from "./words.js";

const PAGE = 100;

export function open(main) {
  const place = h("div");
  const more = button(t("Show older ones"), () => load(), "quiet.wide", { hidden: true });
  let entries = [];
  let next = null;
  const load = async () => {
    try {
      const page = await get(`audit?${search({ limit: PAGE, before: next })}`);
      entries = [...entries, ...page.audit];
      next = page.next;
      more.hidden = next === null;
      place.replaceChildren(table([t("When"), t("Who"), t("Did"), t("About"), t("Outcome"), t("Details")], entries.map(row), { label: t("Audit"), empty: t("Nothing has been changed yet.") }));
    } catch (error) {
      place.replaceChildren(failure(error));
    }
  };
  main.append(h("div.heading", h("h1", t("Audit"))), h("p.hint", t("Every change that somebody made through this hub, and every login.")), place, more);
  load();
  return { moved() {}, leave() {} };
}

const row = ({ at, actor, action, target, outcome, detail }) => [
  h("time", { title: moment(at) }, clock(at)), actor, action, target || "–", h(`span.pill.${outcome === "done" ? "good" : "warn"}`, t(outcome)), detail && Object.keys(detail).length ? h("code.wrap", JSON.stringify(detail)) : "–",
];
