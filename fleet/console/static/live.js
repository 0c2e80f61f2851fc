// What the hub tells as it happens: `device`, `event`, `alert`. Callers are told of a reconnection, and of a tab that is shown again, by `again`:
// something may be missed.

import { byId, pill } from "./dom.js";
import { receive } from "./receive.js";
import { t } from "./words.js";

const listeners = new Map();
let missed = document.hidden;

export function listen(kind, action) {
  if (!listeners.has(kind)) listeners.set(kind, new Set());
  listeners.get(kind).add(action);
  return () => listeners.get(kind).delete(action);
}

const tell = (kind, data) => [...(listeners.get(kind) ?? [])].forEach((action) => action(data));

export function connect() {
  document.addEventListener("visibilitychange", () => {
    missed = true;
  });
  const told = ["device", "event", "alert", "picture"].map((kind) => [kind, (message) => tell(kind, JSON.parse(message.data))]);
  receive(`${document.documentElement.dataset.api}live`, {
    ...Object.fromEntries(told),
    ready: () => {
      pill(byId("live"), t("live"), "good", t("Changes show by themselves"));
      if (missed) tell("again");
      missed = false;
    },
    error: () => {
      missed = true;
      pill(byId("live"), t("connecting again"), "warn", t("What you see may be old"));
    },
  });
}

// Calls `action` at most once in `period` ms, and once more for what came meanwhile.
export function calmly(action, period) {
  let timer = null;
  let due = false;
  const run = () => {
    due = false;
    action();
    timer = setTimeout(() => {
      timer = null;
      if (due) run();
    }, period);
  };
  return () => {
    due = true;
    if (timer === null) run();
  };
}
