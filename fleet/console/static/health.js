// A banner on every page while the hub stores nothing.

import { byId } from "./dom.js";
import { t } from "./words.js";

const LOOK_MS = 10_000;

async function look() {
  if (document.hidden) return;
  const banner = byId("health");
  try {
    const health = await (await fetch("/readyz")).json();
    if (!health.store) banner.textContent = t("The hub stores nothing at the moment: {reason}. The devices keep what they send.", { reason: health.trouble });
    else if (!health.broker) banner.textContent = t("The hub has no connection to the broker: nothing comes in. The devices keep what they send.");
    banner.hidden = health.ready;
  } catch {
    banner.hidden = true; // it does not answer: the pill says so
  }
}

export function watch() {
  look();
  setInterval(look, LOOK_MS);
  document.addEventListener("visibilitychange", look);
}
