// Pictures that devices were allowed to send, for those whose role may see them.

import { get } from "./api.js";
import { h } from "./dom.js";
import { moment, t } from "./words.js";

const ROOT = document.documentElement.dataset.api;
const ROLES = ["viewer", "operator", "admin"];
let known = null;

// What the hub's door is like, and whether this reader may look at pictures.
export function door() {
  known ??= Promise.all([get("door"), get("me")]).then(([state, me]) => ({ ...state, mine: ROLES.indexOf(me.role) >= ROLES.indexOf(state.viewers) }));
  return known;
}

export const address = (path) => `${ROOT}${path}`;

// A small picture of an event that opens it in full, in place of `instead` where there is one and this reader may see it.
export function thumbnail(event, spec = "a.thumbnail", instead = h("span", { hidden: true })) {
  instead.classList.add("unpictured");
  Object.assign(instead.dataset, { at: event.at, as: spec });
  const place = address(`events/${event.id}/picture`);
  const picture = () => h(spec, { href: place, target: "_blank", rel: "noopener" }, h("img", { src: place, loading: "lazy", alt: t("Picture of {time}", { time: moment(event.at) }) }));
  if (event.picture) door().then(({ mine }) => mine && instead.replaceWith(picture())).catch(() => {});
  return instead;
}
