"""Messages between the network and the store."""

from __future__ import annotations

import threading

from fleet.store import Message


class Inbox:
    """Holds at most `limit` messages: whoever brings more waits, and so does the broker, while the store cannot take any."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._messages: list[Message] = []
        self._changed = threading.Condition()
        self._closed = False

    def put(self, message: Message) -> None:
        """Add one, as soon as there is room; after `close` it is dropped, because nobody acknowledges it any more."""
        with self._changed:
            while len(self._messages) >= self._limit and not self._closed:
                self._changed.wait()
            if not self._closed:
                self._messages.append(message)
                if len(self._messages) == 1:
                    self._changed.notify_all()

    def take(self, most: int, timeout_s: float) -> list[Message]:
        """What is there, `most` at most; waits for the first one for `timeout_s`."""
        with self._changed:
            if not self._messages:
                self._changed.wait(timeout_s)
            full = len(self._messages) >= self._limit
            taken, self._messages = self._messages[:most], self._messages[most:]
            if full:
                self._changed.notify_all()
        return taken

    def close(self) -> None:
        """Let go whoever waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
