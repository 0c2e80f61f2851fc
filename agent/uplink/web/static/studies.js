// The worklist: recent radiographs, what the model said of them, and where it saw that.

import { get } from "./api.js";
import { byId, h, repeated } from "./dom.js";
import { clock } from "./words.js";

const REFRESH_MS = 3000;
export const awake = repeated(refresh, REFRESH_MS);

const STEPS = ["queue", "decode", "preprocess", "infer", "explain"];

export function start() {
  byId("show-heat").addEventListener("change", (event) => byId("worklist").classList.toggle("cold", !event.target.checked));
}

async function refresh() {
  const box = byId("worklist");
  try {
    const studies = await get("studies");
    const seen = JSON.stringify(studies);
    if (box.dataset.seen === seen) return;
    box.dataset.seen = seen;
    box.replaceChildren(...(studies.length ? studies.map(card) : [h("p.empty", "No radiograph has arrived yet.")]));
  } catch (error) {
    delete box.dataset.seen;
    box.replaceChildren(h("p.empty", `${error.message}.`));
  }
}

function card(study) {
  const name = study.item.slice(0, 8);
  const path = `/api/1/studies/${study.item}`;
  const picture = study.picture
    ? [h("img", { alt: `Radiograph ${name}`, src: `${path}/picture.jpg`, loading: "lazy" }),
      study.heat_map && h("img.heat", { alt: `Where the model saw ${study.decision} in radiograph ${name}`, src: `${path}/heat-map.png`, loading: "lazy" })]
    : h("p.over", study.failure ? "There is no picture." : "The picture has been deleted.");
  return h("article.card.study", { "aria-label": `Radiograph ${name}` },
    h("div.film", picture),
    h("div.about",
      h("h3", study.decision ? `The model answers ${study.decision}` : study.failure ? `Cannot be used: ${study.failure}` : "No answer"),
      h("p.meta", [name, clock(study.made_at), study.model.split("@")[0]].filter(Boolean).join(" · ")),
      study.abstained && h("p.warning", `${study.abstained[0].toUpperCase()}${study.abstained.slice(1)}.`),
      scores(study), timings(study.timings),
      study.explained && h("p.meta", `heat map by ${study.explained}`)));
}

function scores({ scores: found, positive, threshold }) {
  const rows = Object.entries(found).map(([label, score]) => [
    h("dt", label), h("dd", h("meter", { min: 0, max: 1, value: score, "aria-label": `Score of ${label}` }), ` ${score.toFixed(3)}`, label === positive && ` (answer from ${threshold.toFixed(3)} on)`),
  ]);
  return rows.length > 0 && h("dl", rows);
}

function timings(seconds) {
  const parts = STEPS.filter((step) => step in seconds).map((step) => `${step} ${(seconds[step] * 1000).toFixed(0)} ms`);
  return h("p.meta", parts.join(" · "));
}
