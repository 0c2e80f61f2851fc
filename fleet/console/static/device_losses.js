// What this device has declared as lost: which numbers, when, why.

import { get } from "./api.js";
import { h } from "./dom.js";
import { fill, table } from "./parts.js";
import { clock, counted, number, t } from "./words.js";

const MANY = 6;
const REASONS = {
  __proto__: null, evicted: { text: "evicted: the outbox was full" }, "lane full": { text: "not taken: the outbox was full" }, expired: { text: "expired: it waited for too long" },
  damaged: { text: "damaged on the disk" }, "storage failed": { text: "the disk took nothing" },
};

export function losses(body, { address }) {
  const box = h("div");
  body.append(h("p.hint", t("Whatever an outbox had to drop is declared here. What is neither stored nor here is still on the device, and will come.")), box);
  fill(box, get(`${address}/losses`).then(draw));
  return {};
}

function draw({ losses: list, total, missing, missing_total: many, begins }) {
  const rows = list.map((loss) => [
    why(loss.reason), number(loss.count, 0), h("span.ranges", ranges(loss.ranges)), [clock(loss.since), loss.until > loss.since && ` – ${clock(loss.until)}`], loss.lane, h("code", loss.spool),
  ]);
  const gaps = missing.map((gap) => [number(gap.count, 0), h("span.ranges", ranges(gap.ranges)), gap.since ? clock(gap.since) : "", gap.lane, h("code", gap.spool)]);
  return [
    ...(many > 0 ? [
      h("h3", t("Missing, not declared")),
      h("p.hint", t("Higher numbers are here, these are not, and nothing says that they are lost. Those that still wait in the outbox will come; an alert tells if others stay away.")),
      table([t("Rows"), t("Numbers"), t("Since"), t("Lane"), t("Spool")], gaps, { label: t("Missing, not declared") }),
    ] : []),
    ...Object.entries(begins).map(([lane, first]) => h("p.hint", t("{lane}: this hub knows numbers from {n} on. Earlier ones went to another hub, never came, or are forgotten here.", { lane, n: number(first, 0) }))),
    total > 0 && h("p.figure.bad.apart", counted(total, "{n} event is lost for good.", "{n} events are lost for good.")),
    table([t("Reason"), t("Events"), t("Numbers"), t("When"), t("Lane"), t("Spool")], rows, { label: t("Losses"), empty: t("This device has lost nothing.") }),
  ];
}

// `refused: …` holds the hub's own reason.
const why = (reason) => { const [kind, ...more] = reason.split(": "); return [t(REASONS[kind]?.text ?? kind), ...more].join(": "); };

function ranges(pairs) {
  const text = (pairs ?? []).slice(0, MANY).map(([low, high]) => (low === high ? number(low, 0) : `${number(low, 0)}–${number(high, 0)}`)).join(", ");
  return pairs?.length > MANY ? `${text} … ${t("and {n} more", { n: pairs.length - MANY })}` : text || t("never numbered");
}
