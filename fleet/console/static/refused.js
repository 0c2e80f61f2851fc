// Messages that the hub could not store.

import { search, to } from "./address.js";
import { get } from "./api.js";
import { bytes, h } from "./dom.js";
import { typed } from "./filters.js";
import { button, failure, since, table } from "./parts.js";
import { number, t } from "./words.js";

const PAGE = 50;

export function open(main, here) {
  const place = h("div");
  const more = button(t("Show older ones"), () => load(), "quiet.wide", { hidden: true });
  let query = here.query;
  let letters = [];
  let next = null;
  const load = async () => {
    const mine = query;
    try {
      const page = await get(`dead-letters?${search({ device: mine.device, limit: PAGE, before: next })}`);
      if (mine !== query) return;
      letters = [...letters, ...page.dead_letters];
      next = page.next;
      more.hidden = next === null;
      place.replaceChildren(table([t("Device"), t("Last came"), t("Times"), t("Why"), t("Topic"), t("Message")], letters.map(row), { label: t("Refused messages"), empty: t("Every message could be stored.") }));
    } catch (error) {
      place.replaceChildren(failure(error));
    }
  };
  main.append(h("div.heading", h("h1", t("Refused messages"))),
    h("p.hint", t("What could not be stored, each once. A device is told which of its rows were refused, and keeps them out of the way; the newest 64 MiB are kept here.")),
    h("form.bar", { role: "search", onsubmit: (event) => event.preventDefault() }, typed("device", query)), place, more);
  load();
  return {
    moved(there) {
      query = there.query;
      letters = [];
      next = null;
      load();
    },
    leave() {},
  };
}

const row = ({ device, topic, reason, last_at: at, times, bytes: size, payload }) => [
  device ? h("a", { href: to("device", [device]) }, device) : "–", since(at), number(times, 0), h("span.wrap", reason), h("code.wrap", topic),
  size ? h("details.raw", h("summary", bytes(size)), h("pre", payload)) : t("erased"),
];
