// Elements, in every language. Everything that comes from a device is put in as text, never as markup.

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

// Puts `children` in the place of what is in `box`; what had the focus there has it again, if it is still there.
export function renew(box, ...children) {
  const before = box.contains(document.activeElement) ? document.activeElement : null;
  const alike = () => [...box.querySelectorAll(before.tagName)].filter((one) => called(one) === called(before));
  const place = before ? alike().indexOf(before) : 0;
  box.replaceChildren(...children);
  if (before) alike()[place]?.focus({ preventScroll: true });
}

const called = (element) => element.id || element.getAttribute("href") || element.name || element.firstChild?.textContent;

export const byId = (id) => document.getElementById(id);

export function pill(element, text, kind, title = "") {
  element.textContent = text;
  element.className = `pill ${kind}`;
  element.title = title;
  return element;
}

export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return `${count < 10 && unit ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

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
