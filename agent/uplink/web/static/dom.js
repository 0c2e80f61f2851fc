// Elements and texts. Everything that comes from the device is put in as text, never as markup.

export function h(spec, ...children) {
  const [tag, ...classes] = spec.split(".");
  const element = document.createElement(tag);
  element.classList.add(...classes);
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    if (Object.getPrototypeOf(child) === Object.prototype) set(element, child);
    else element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
}

export const byId = (id) => document.getElementById(id);

export function pill(element, text, kind, title = "") {
  element.textContent = text;
  element.className = `pill ${kind}`;
  element.title = title;
  return element;
}

export function clock(seconds) {
  const date = new Date(seconds * 1000);
  const today = date.toDateString() === new Date().toDateString();
  return today ? date.toLocaleTimeString() : date.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}

export const day = (seconds) => new Date(seconds * 1000).toLocaleDateString([], { dateStyle: "medium" });

export function span(seconds) {
  if (seconds < 1) return "less than a second";
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} days`;
}

export const ago = (seconds) => `${span(Math.max(0, Date.now() / 1000 - seconds))} ago`;

export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return `${count < 10 && unit ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

export const count = (value, one, many = `${one}s`) => `${value} ${value === 1 ? one : many}`;

// A switch: on does it at once and then each period, off ends that.
export function repeated(action, period) {
  let timer = null;
  return (on) => {
    clearInterval(timer);
    if (on) {
      action();
      timer = setInterval(action, period);
    }
  };
}
