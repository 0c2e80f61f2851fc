"""How soon Chromium shows each page of the console, and what each filter finds, over a large store that is there already.

    almena bench console --store sqlite:////tmp/large.sqlite
    python -m tests.paint sqlite:////tmp/large.sqlite

The whole hub runs, with mosquitto, on the same machine as the browser. Each page is opened in a fresh context (nothing cached): the first
paint (First Contentful Paint of the W3C's Paint Timing) and the first row that the page is about. A filter's time is from the change (the
pause after typing included) to the second frame after the answer. The slowest of TIMES.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from fleet.bench.load import name
from tests.e2e.conftest import FLAGS
from tests.fakes.small_hub import SmallHub, small_hub
from tests.fakes.watched import watched

TIMES = 5
DAY = 86400
ROW = "#main tbody tr, #main ol > li, #main article, #main canvas, #main svg, #main .empty:not([hidden])"
PAGES = ("fleet", "events", "faces", "studies", "alerts", "identities", "accounts", "refused", "audit")
TABS = ("now", "events", "losses", "commands")
WATCH = """row => {
  const look = () => {
    if (document.querySelector(row)) window.rowAt = performance.now();
    else requestAnimationFrame(look);
  };
  look();
}"""
PAINTED = """async () => {
  const painted = () => performance.getEntriesByName("first-contentful-paint")[0];
  while (!window.rowAt || !painted()) await new Promise((next) => requestAnimationFrame(next));
  return [painted().startTime, window.rowAt];
}"""
ASK = """async ([path, wanted, field]) => {
  performance.clearResourceTimings();
  const begun = performance.now();
  if (field) {
    const input = document.querySelector(`#main [name=${field}]`);
    input.value = wanted[field];
    input.dispatchEvent(new Event(input.tagName === "SELECT" ? "change" : "input", { bubbles: true }));
  } else location.hash = `#/${path}?${new URLSearchParams(wanted)}`;
  const frame = () => new Promise((next) => requestAnimationFrame(next));
  const answers = ({ name }) => {
    const { pathname, searchParams } = new URL(name);
    const list = path === "fleet" ? "devices" : "events";
    const asked = ([key, value]) => (key === "last" ? searchParams.has("since") : searchParams.get(key) === String(value));
    return pathname.endsWith(`/${list}`) && Object.entries(wanted).every(asked);
  };
  while (!performance.getEntriesByType("resource").some((entry) => entry.responseEnd && answers(entry))) await frame();
  await frame();
  await frame();
  return performance.now() - begun;
}"""
"""What has been read of the answer is on the screen with the second frame."""


def pages(browser: Browser, hub: SmallHub) -> Iterator[tuple[str, float, float]]:
    """Each page: its address, milliseconds until the first paint and until the first row; the slowest of TIMES."""
    for address in [*PAGES, *(f"device/{name(1)}/{tab}" for tab in TABS)]:
        opened = [_opened(browser, hub, address) for _ in range(TIMES)]
        yield address, max(paint for paint, _ in opened), max(row for _, row in opened)


def _opened(browser: Browser, hub: SmallHub, address: str) -> tuple[float, float]:
    with watched(browser, hub.url, storage_state=_session(hub)) as page:
        page.add_init_script(f"({WATCH})({ROW!r})")
        page.goto(f"{hub.url}#/{address}")
        paint, row = page.evaluate(PAINTED)
        return float(paint), float(row)


def filters(browser: Browser, hub: SmallHub) -> Iterator[tuple[str, float]]:
    """Milliseconds from a change of a filter until its answer is shown; the slowest of TIMES."""
    with watched(browser, hub.url, storage_state=_session(hub)) as page:
        page.goto(hub.url)
        for path, wanted, field in questions(time.time()):
            taken = []
            for _ in range(TIMES):
                page.evaluate("path => { location.hash = `#/${path}`; }", path)
                page.locator("#main [name=site]").wait_for(state="attached")
                page.wait_for_timeout(500)
                taken.append(float(page.evaluate(ASK, [path, wanted, field])))
            yield f"{path}: {', '.join(f'{key}={value}' for key, value in wanted.items())}{'' if field else ' (a link)'}", max(taken)


def questions(now: float) -> list[tuple[str, dict[str, Any], str | None]]:
    """Page, filters, and the control that is used: none where a link sets several at once."""
    single: list[tuple[str, dict[str, Any]]] = [
        ("fleet", {"search": "bench-77"}), ("fleet", {"site": "site-3"}), ("fleet", {"group": "group-2"}), ("events", {"device": name(1)}),
        ("events", {"site": "site-3"}), ("events", {"stream": "door"}), ("events", {"kind": "face"}), ("events", {"kind": "stream"}),
        ("events", {"subject": "Person 77"}), ("events", {"subject": "pneumonia"}), ("events", {"subject": "nobody"}),
        ("events", {"last": "3600"}), ("events", {"last": "604800"}),
    ]  # fmt: skip
    linked: list[tuple[str, dict[str, Any]]] = [
        ("fleet", {"state": "offline"}), ("fleet", {"alert": "any"}), ("fleet", {"sort": "-temperature_c"}), ("fleet", {"sort": "-alerts"}),
        ("events", {"since": int(now - 5 * DAY), "until": int(now - 4 * DAY)}), ("events", {"until": int(now - 364 * DAY)}),
        ("events", {"site": "site-3", "stream": "scanner"}), ("events", {"site": "site-3", "subject": "pneumonia"}),
        ("events", {"device": name(0), "subject": "nobody"}), ("events", {"subject": "normal", "kind": "face"}),
        ("events", {"device": name(1), "stream": "scanner"}), ("events", {"stream": "door", "kind": "study"}),
    ]  # fmt: skip
    return [*((path, wanted, next(iter(wanted))) for path, wanted in single), *((path, wanted, None) for path, wanted in linked)]


def _session(hub: SmallHub) -> Any:
    cookies = [{"name": cookie.name, "value": cookie.value, "url": hub.url} for cookie in hub.client.cookies.jar]
    return {"cookies": cookies, "origins": []}


def main(store: str) -> None:
    """Prints both tables."""
    with tempfile.TemporaryDirectory() as folder, small_hub(Path(folder), store) as hub, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        print(f"{'page':32}{'first paint, s':>16}{'first row, s':>16}")
        for address, paint, row in pages(browser, hub):
            print(f"{address:32}{paint / 1e3:16.2f}{row / 1e3:16.2f}", flush=True)
        print(f"\n{'filter':80}{'s':>8}")
        for what, taken in filters(browser, hub):
            print(f"{what:80}{taken / 1e3:8.2f}", flush=True)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
