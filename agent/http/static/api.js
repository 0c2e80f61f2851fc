// Requests to what serves the page; `data-api` of its root element is where its interface begins. Errors carry the sentence of the problem document.

const ROOT = document.documentElement.dataset.api;

export class ApiError extends Error {
  constructor(status, problem) {
    super([problem.title, problem.detail].filter(Boolean).join(": "));
    this.status = status;
    this.problem = problem;
  }
}

export async function call(method, path, body) {
  const options = { method, headers: {} };
  if (body instanceof FormData) options.body = body;
  else if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new ApiError(0, { title: "Almena does not answer" });
  }
  if (answer.status === 401) location.assign(`/login${location.hash}`);
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({ title: `Error ${answer.status}` }));
    throw new ApiError(answer.status, problem);
  }
  if (answer.status === 204) return null;
  return answer.headers.get("Content-Type")?.includes("json") ? answer.json() : answer.blob();
}

export const get = (path) => call("GET", `${ROOT}${path}`);
export const post = (path, body) => call("POST", `${ROOT}${path}`, body);
export const put = (path, body) => call("PUT", `${ROOT}${path}`, body);
export const patch = (path, body) => call("PATCH", `${ROOT}${path}`, body);
export const erase = (path) => call("DELETE", `${ROOT}${path}`);

export function upload(path, picture) {
  const form = new FormData();
  form.append("file", picture, picture.name ?? "picture.jpg");
  return post(path, form);
}
