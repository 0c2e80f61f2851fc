const form = document.getElementById("login");
const error = document.getElementById("error");
const button = form.querySelector("button");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  button.disabled = true;
  error.hidden = true;
  try {
    const answer = await fetch("/api/1/login", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ username: form.username.value, password: form.password.value }),
    });
    if (answer.ok) {
      location.assign("/");
      return;
    }
    const problem = await answer.json();
    error.textContent = [problem.title, problem.detail].filter(Boolean).join(": ") + ".";
  } catch {
    error.textContent = "The device does not answer.";
  }
  error.hidden = false;
  button.disabled = false;
  form.password.select();
});
