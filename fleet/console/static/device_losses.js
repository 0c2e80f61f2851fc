// What this device has declared as lost: which numbers, when, why.

import { get, post } from "./api.js";
import { h } from "./dom.js";
import { button, confirmed, fill, table } from "./parts.js";
import { clock, counted, number, t } from "./words.js";

const MANY = 6;
const REASONS = {
  __proto__: null, evicted: { text: "evicted: the outbox was full" }, "lane full": { text: "not taken: the outbox was full" }, expired: { text: "expired: it waited for too long" },
  damaged: { text: "damaged on the disk" }, "storage failed": { text: "the disk took nothing" },
};

export function losses(body, { address, app }) {
  const box = h("div");
  body.append(h("p.hint", t("Whatever an outbox had to drop is declared here. What still waits on the device will come.")), box);
  const load = () => fill(box, get(`${address}/losses`).then((found) => draw(found, app.can("operator") && giveUp)));
  const giveUp = () => confirmed(t("Give up what is missing?"), t("It counts as lost for good, and the alert ends. What comes all the same is taken."), t("Give up"), () => post(`${address}/losses/give-up`).then(load));
  load();
  return {};
}

function draw({ losses: list, total, missing, missing_total: many, begins }, giveUp) {
  const rows = list.map((loss) => [
    why(loss.reason), number(loss.count, 0), h("span.ranges", ranges(loss.ranges)), [clock(loss.since), loss.until > loss.since && ` – ${clock(loss.until)}`], loss.lane, h("code", loss.spool),
  ]);
  const gaps = missing.map((gap) => [number(gap.count, 0), h("span.ranges", ranges(gap.ranges)), gap.since ? clock(gap.since) : "", gap.lane, h("code", gap.spool)]);
  return [
    ...(many > 0 ? [
      h("h3", t("Missing, not declared")),
      h("p.hint", t("Higher numbers are here, these are not, and nothing says that they are lost. Those that still wait in the outbox will come; an alert tells if others stay away. What cannot come any more, as after the hub was restored from a back-up, can be given up.")),
      table([t("Rows"), t("Numbers"), t("Since"), t("Lane"), t("Spool")], gaps, { label: t("Missing, not declared") }),
      giveUp && h("p", button(t("Give up …"), giveUp, "danger")),
    ] : []),
    ...Object.entries(begins).map(([lane, first]) => h("p.hint", t("{lane}: this hub knows numbers from {n} on. Earlier ones went to another hub, never came, or are forgotten here.", { lane, n: number(first, 0) }))),
    total > 0 && h("p.figure.bad.apart", counted(total, "{n} event is lost for good.", "{n} events are lost for good.")),
    table([t("Reason"), t("Events"), t("Numbers"), t("When"), t("Lane"), t("Spool")], rows, { label: t("Losses"), empty: many > 0 ? t("Nothing is declared as lost.") : t("This device has lost nothing.") }),
  ];
}

// `refused: …` holds the hub's own reason.
const why = (reason) => { const [kind, ...more] = reason.split(": "); return [t(REASONS[kind]?.text ?? kind), ...more].join(": "); };

function ranges(pairs) {
  const text = (pairs ?? []).slice(0, MANY).map(([low, high]) => (low === high ? number(low, 0) : `${number(low, 0)}–${number(high, 0)}`)).join(", ");
  return pairs?.length > MANY ? `${text} … ${t("and {n} more", { n: pairs.length - MANY })}` : text || t("never numbered");
}
