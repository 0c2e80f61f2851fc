// What a device measured, over time.

import { refine, search } from "./address.js";
import { get } from "./api.js";
import { chart } from "./chart.js";
import { h, renew } from "./dom.js";
import { METRICS, metric } from "./figures.js";
import { button, reason } from "./parts.js";
import { t } from "./words.js";

const RANGES = [[900, "15 minutes"], [3600, "1 hour"], [21600, "6 hours"], [86400, "1 day"], [604800, "7 days"], [2592000, "30 days"]];
const POINTS = 240;
const REFRESH_MS = 15_000;

export function charts(body, context, query) {
  let range = Number(query.range) || 3600;
  let names = [];
  const choices = h("div.chips", { role: "group", "aria-label": t("Time shown") });
  const place = h("div.charts");
  body.append(choices, place);

  const one = async (name, since, until) => {
    const text = metric(name);
    try {
      return chart(text, { ...await get(`${context.address}/telemetry?${search({ metric: name, since, until, points: POINTS })}`), since, until });
    } catch (error) {
      return h("figure.card.chart", h("figcaption", text.text), h("p.meta", `${reason(error)}.`));
    }
  };
  const load = async () => {
    const mine = (load.asked = (load.asked ?? 0) + 1);
    if (names.length === 0 || place.contains(document.activeElement)) return;
    const until = Math.ceil(Date.now() / 1000);
    const drawn = await Promise.all(names.map((name) => one(name, until - range, until)));
    if (mine === load.asked) place.replaceChildren(...drawn);
  };
  const choose = () => renew(choices, ...RANGES.map(([seconds, text]) => button(t(text), () => refine({ range: seconds }), "chip", { "aria-pressed": String(seconds === range) })));
  const regular = setInterval(() => { if (!document.hidden) load(); }, REFRESH_MS);
  choose();
  return {
    update({ figures }) {
      const measured = Object.keys(figures ?? {});
      const wanted = [...Object.keys(METRICS).filter((name) => measured.includes(name)), ...measured.filter((name) => /^(fps|latency_ms)\./.test(name)).sort()];
      if (wanted.join() === names.join() && place.children.length) return;
      names = wanted;
      if (names.length) load();
      else place.replaceChildren(h("p.empty", t("No telemetry of this device has come yet.")));
    },
    moved(there) {
      range = Number(there.range) || 3600;
      choose();
      load();
    },
    leave: () => clearInterval(regular),
  };
}
