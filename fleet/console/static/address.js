// Where the reader is: `#/page/part/part?filter=value`. Filters live there, so that a link and the way back lead to what was seen.

export function address() {
  const [path, query = ""] = location.hash.replace(/^#?\/?/, "").split("?");
  const [page, ...parts] = path.split("/").map(decodeURIComponent);
  return { page, parts, query: Object.fromEntries(new URLSearchParams(query)) };
}

export function search(values) {
  const given = Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== undefined && value !== false);
  return new URLSearchParams(given).toString();
}

export function to(page, parts = [], query = {}) {
  const text = search(query);
  return `#/${[page, ...parts].map(encodeURIComponent).join("/")}${text && `?${text}`}`;
}

// Changes filters without a step in the way back.
export function refine(changes) {
  const { page, parts, query } = address();
  history.replaceState(null, "", to(page, parts, { ...query, ...changes }));
  window.dispatchEvent(new Event("hashchange"));
}
