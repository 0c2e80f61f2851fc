// Devices that are chosen in a list, and where all of them stand, said at once.

import { patch } from "./api.js";
import { h } from "./dom.js";
import { ask, button, field, say } from "./parts.js";
import { counted, t } from "./words.js";

const AT_ONCE = 500;

export class Selection {
  // `offered`: names that can be chosen now; `done`: called when something has changed.
  constructor(offered, done) {
    Object.assign(this, { offered, done });
    this.names = new Set();
    this.count = h("strong", { role: "status" });
    this.element = h("div.card.chosen", { hidden: true }, this.count,
      button(t("Site and group …"), () => this.describe(), "primary"), button(t("Choose all that are listed"), () => this.choose(offered())), button(t("Choose none"), () => this.choose([])));
  }

  box(name) {
    return h("input", { type: "checkbox", "aria-label": t("Choose {device}", { device: name }), checked: this.names.has(name), name: `choose-${name}`, "data-choose": name, onchange: (event) => {
      if (event.target.checked) this.names.add(name);
      else this.names.delete(name);
      this.show();
    } });
  }

  choose(names) {
    this.names = new Set(names);
    for (const box of document.querySelectorAll("[data-choose]")) box.checked = this.names.has(box.dataset.choose);
    this.show();
  }

  // What is not listed any more is not chosen either.
  settle() {
    const listed = new Set(this.offered());
    this.names = new Set([...this.names].filter((name) => listed.has(name)));
    this.show();
  }

  show() {
    this.element.hidden = this.names.size === 0;
    this.count.textContent = counted(this.names.size, "{n} device is chosen", "{n} devices are chosen");
  }

  describe() {
    const input = (name) => h("input", { name, maxlength: 64, autocomplete: "off", placeholder: t("as it is") });
    ask(this.count.textContent, [field(t("Site"), input("site"), t("Where they stand; left empty, it stays")), field(t("Group"), input("group"), t("What they are used for; left empty, it stays"))], t("Save"), async ({ elements }) => {
      const given = Object.fromEntries(["site", "group"].map((name) => [name, elements[name].value.trim()]).filter(([, value]) => value));
      if (Object.keys(given).length === 0) throw new Error(t("Give a site or a group"));
      const names = [...this.names];
      let changed = 0;
      for (let start = 0; start < names.length; start += AT_ONCE) changed += (await patch("devices", { devices: names.slice(start, start + AT_ONCE), ...given })).changed;
      say(counted(changed, "{n} device is changed", "{n} devices are changed"));
      this.choose([]);
      this.done();
    });
  }
}
