import { h } from "./dom.js";

const document_ = await (await fetch("/api/1/openapi.json")).json();
document.getElementById("description").textContent = document_.info.description;

const name = (schema) => (schema?.$ref ?? "").split("/").pop() || schema?.type || "";

function parameters(operation) {
  const rows = (operation.parameters ?? []).map((parameter) =>
    h("li", h("code", parameter.name), ` in ${parameter.in}`, parameter.required ? ", required" : "", parameter.description ? `: ${parameter.description}` : ""));
  const body = Object.entries(operation.requestBody?.content ?? {}).map(([kind, value]) => h("li", "body ", h("code", kind), ` ${name(value.schema)}`));
  return h("ul", rows, body);
}

const groups = new Map();
for (const [path, methods] of Object.entries(document_.paths)) {
  for (const [method, operation] of Object.entries(methods)) {
    const group = operation.tags?.[0] ?? "other";
    if (!groups.has(group)) groups.set(group, []);
    groups.get(group).push(
      h("article.card.operation",
        h("h3", h("span.method", { "data-method": method }, method.toUpperCase()), " ", h("code", path)),
        h("p", operation.description ?? operation.summary ?? ""),
        parameters(operation),
        h("p.hint", "Answers: ", Object.keys(operation.responses).join(", "))));
  }
}
for (const [group, operations] of groups) {
  document.getElementById("operations").append(h("h2", group), ...operations);
}
