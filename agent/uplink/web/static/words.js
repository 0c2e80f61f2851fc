// Times and counts in words.

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

export const count = (value, one, many = `${one}s`) => `${value} ${value === 1 ? one : many}`;
