// Server-Sent Events while the page is shown. Over HTTP/1.1 a browser has six connections to a host for all its tabs together.

const AGAIN_MS = 2000;

// `actions`: what to call, by the kind of event. `ready` comes with each connection: what came before it is to be loaded.
export function receive(url, actions) {
  let source = null;
  let timer = null;
  const open = () => {
    source = new EventSource(url);
    for (const [kind, action] of Object.entries(actions)) source.addEventListener(kind, action);
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED) timer = setTimeout(open, AGAIN_MS);
    });
  };
  const turn = () => {
    clearTimeout(timer);
    source?.close();
    if (!document.hidden) open();
  };
  document.addEventListener("visibilitychange", turn);
  turn();
}
