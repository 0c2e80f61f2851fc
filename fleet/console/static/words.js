// Texts in the reader's language; times, numbers and durations as that language writes them. English is the key of every translation.

import { ES } from "./es.js";
import { h } from "./dom.js";

const NAMES = { en: "English", es: "Español" };
const chosen = localStorage.getItem("language") ?? navigator.language.slice(0, 2);
export const language = chosen in NAMES ? chosen : "en";
const locale = navigator.language.startsWith(language) ? navigator.language : language;
// Without a prototype: a device may say `constructor`.
const table = language === "es" ? ES : { __proto__: null };
document.documentElement.lang = language;

// `{name}` in a text stands for a member of `values`.
export const t = (text, values = {}) => (table[text] ?? text).replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");

// What hub and devices say in English: {0}, {1} … in the table stand for the numbers in it.
export function told(text) {
  const numbers = [];
  const key = text.replace(/\d+(?:\.\d+)?/g, (found) => `{${numbers.push(found) - 1}}`);
  return key in table ? t(key, numbers) : text;
}

export function translated(root) {
  for (const element of root.querySelectorAll("[data-text]")) element.textContent = t(element.dataset.text);
}

export function languages(select) {
  select.setAttribute("aria-label", t("Language"));
  select.append(...Object.entries(NAMES).map(([code, name]) => h("option", { value: code, selected: code === language, lang: code }, name)));
  select.addEventListener("change", () => {
    localStorage.setItem("language", select.value);
    location.reload();
  });
}

const formats = new Map();

// To make one costs more than to use it a hundred times.
function format(kind, options) {
  const key = kind.name + JSON.stringify(options);
  if (!formats.has(key)) formats.set(key, new kind(locale, options));
  return formats.get(key);
}

const SAME_DAY = { timeStyle: "medium" };
const OTHER_DAY = { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit" };
const OTHER_YEAR = { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" };

// A device can send any number as a time.
const written = (seconds, options) => {
  const date = new Date(seconds * 1000);
  return Number.isNaN(date.getTime()) ? "–" : format(Intl.DateTimeFormat, options).format(date);
};

export function clock(seconds) {
  const date = new Date(seconds * 1000);
  const now = new Date();
  const options = date.toDateString() === now.toDateString() ? SAME_DAY : date.getFullYear() === now.getFullYear() ? OTHER_DAY : OTHER_YEAR;
  return written(seconds, options);
}

export const moment = (seconds) => written(seconds, { dateStyle: "full", timeStyle: "long" });

export const axis = (seconds, range) =>
  written(seconds, range <= 86400 ? { hour: "2-digit", minute: "2-digit" } : { month: "short", day: "numeric", hour: "2-digit" });

const UNITS = [[86400, "day"], [3600, "hour"], [60, "minute"], [1, "second"]];

export function span(seconds) {
  const [size, unit] = UNITS.find(([least]) => seconds >= least * (least > 1 ? 2 : 1)) ?? [1, "second"];
  return format(Intl.NumberFormat, { style: "unit", unit, unitDisplay: "short", maximumFractionDigits: 0 }).format(seconds / size);
}

export const ago = (seconds) => t("{span} ago", { span: span(Math.max(0, Date.now() / 1000 - seconds)) });

export const number = (value, digits = 1) => format(Intl.NumberFormat, { maximumFractionDigits: digits }).format(value);

const plural = new Intl.PluralRules(language);

// `one` and `many` are texts with `{n}`.
export const counted = (n, one, many) => t(plural.select(n) === "one" ? one : many, { n: number(n, 0) });
