// One's own password.

import { put } from "./api.js";
import { h } from "./dom.js";
import { ask, field, say } from "./parts.js";
import { t } from "./words.js";

export function changePassword() {
  const input = (name, complete) => h("input", { name, type: "password", required: true, maxlength: 1000, autocomplete: complete });
  ask(t("Change your password"), [field(t("Old password"), input("old", "current-password")), field(t("New password"), input("fresh", "new-password"), t("At least ten characters"))], t("Save"), async ({ elements }) => {
    await put("me/password", { old: elements.old.value, new: elements.fresh.value });
    say(t("Your password is changed; your other sessions have ended"));
  });
}
