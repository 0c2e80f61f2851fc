// The fleet in a few numbers. Several parts of a page ask for it at the same moment, and the hub once.

import { get } from "./api.js";

const FRESH_MS = 500;
let asked = null;

// `anew`: something has just been changed.
export function overview(anew = false) {
  if (anew || asked === null) {
    const mine = get("fleet");
    asked = mine;
    setTimeout(() => { if (asked === mine) asked = null; }, FRESH_MS);
  }
  return asked;
}
