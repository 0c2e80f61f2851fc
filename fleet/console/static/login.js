// Logging in.

import { byId } from "./dom.js";
import { languages, t, translated } from "./words.js";

const form = byId("login");
const error = byId("error");
const button = form.querySelector("button");

async function submit() {
  const answer = await fetch(`${document.documentElement.dataset.api}login`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ username: form.username.value, password: form.password.value }),
  });
  if (answer.ok) return "";
  const problem = await answer.json();
  return [problem.title, problem.detail].filter(Boolean).map((text) => t(text)).join(": ") + ".";
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  button.disabled = true;
  error.hidden = true;
  const wrong = await submit().catch(() => `${t("Almena does not answer")}.`);
  if (!wrong) {
    location.assign(`/${location.hash}`);
    return;
  }
  error.textContent = wrong;
  error.hidden = false;
  button.disabled = false;
  form.password.select();
});

languages(byId("language"));
translated(document);
