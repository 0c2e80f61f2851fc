"""A page in the browser that is watched for what a page must not do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page


@contextmanager
def watched(browser: Browser, origin: str, **options: Any) -> Iterator[Page]:
    """A new page for `origin`; an error at the end if a script broke, a dialog popped up or another host was asked.

    `options`: of the browser's context.
    """
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, "locale": "en-GB", **options})
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
    page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("console", lambda message: "Content Security Policy" in message.text and wrong.append(message.text))
    page.on("request", lambda request: request.url.startswith((origin, "blob:")) or wrong.append(f"request: {request.url}"))
    yield page
    context.close()
    assert wrong == []
