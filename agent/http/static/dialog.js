// A dialog with a form. `submit` may throw: its message is shown and the dialog stays. It may keep the dialog open by returning true.

import { h } from "./dom.js";

const WORDS = { cancel: "Cancel", close: "Close" };

export function ask(title, fields, label, submit, { kind = "primary", after = () => {}, words = WORDS } = {}) {
  const error = h("p.error", { role: "alert", hidden: true });
  const cancel = h("button.quiet", { type: "button", onclick: () => dialog.close() }, words.cancel);
  const go = h(`button.${kind}`, { type: "submit" }, label);
  const form = h("form", h("h2", title), fields, error, h("div.actions.end", cancel, go));
  const dialog = h("dialog", { "aria-label": title }, form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    go.disabled = true;
    error.hidden = true;
    try {
      if (await submit(form)) cancel.textContent = words.close;
      else dialog.close();
    } catch (problem) {
      error.textContent = `${problem.message}.`;
      error.hidden = false;
    }
    go.disabled = false;
    after();
  });
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}
