"""What authors of sources and tasks write: a few methods. Retry, threads, timing and counters are the pipeline's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from agent.config import Config
from agent.datatypes import Annotation, Event, Frame
from agent.settings import Settings


class Source(ABC):
    """Where frames come from. One thread opens, reads and closes it; after an error it may be opened again."""

    Config: ClassVar[type[Config]]

    def __init__(self, config: Any, stream: str) -> None:
        self.config = config
        self.stream = stream

    @property
    @abstractmethod
    def finite(self) -> bool:
        """True: no frame may be lost, and the pipeline pushes back. False: live, only the newest frame counts."""

    def prepare(self, settings: Settings) -> None:
        """Called before the first `open`: for a source that shares folders of the agent with another process."""

    @property
    def expected_per_second(self) -> float | None:
        """The frame rate that the source announced once it is open; None if it does not say."""
        return None

    @abstractmethod
    def open(self) -> None:
        """Connect. Raises SourceError."""

    @abstractmethod
    def read(self) -> Frame | None:
        """The next frame; None at the end of a finite source. Raises SourceError, or ItemError for one bad item."""

    def interrupt(self) -> None:
        """Called from another thread at a stop: a read() that waits for something returns None soon."""

    def done(self, item: str) -> None:
        """All events of `item` are committed. Called from another thread, also after the end."""

    def failed(self, item: str, reason: str) -> None:
        """`item` cannot be processed. Called from another thread, also after the end."""

    @abstractmethod
    def close(self) -> None:
        """Free everything. Calling it twice does no harm."""


class Task(ABC):
    """What is done with the frames of one stream."""

    Config: ClassVar[type[Config]]

    parallel: int = 1
    """How many calls of `infer` at once are best."""

    annotations: tuple[Annotation, ...] = ()
    """What the last update saw, for the live picture."""

    impaired: str = ""
    """What goes wrong although frames are processed, for as long as it does; part of the stream's health."""

    @abstractmethod
    def infer(self, frame: Frame) -> Any:
        """The model work on one frame. Keeps no state that a result depends on; several threads call it at once."""

    @abstractmethod
    def update(self, frame: Frame, prediction: Any) -> list[Event]:
        """Carry tracks and counters on by one frame. Called in frame order by one thread. NotNowError: called again after a while."""

    def missed(self, frame: Frame) -> list[Event]:
        """A live frame that could not be processed: end what was not seen for too long. Called in frame order by the thread of `update`."""
        return []

    def flush(self, captured_at: float, mono_ns: int, reason: str) -> list[Event]:
        """End what is open: at a stop, when the stream is lost, or when a finite source is at its end."""
        return []

    def metrics(self) -> dict[str, float]:
        """Counters and latencies for telemetry, flat names."""
        return {}

    def engines(self) -> list[dict[str, Any]]:
        """Passports of the engines it uses: at least model, backend, precision, why."""
        return []

    def close(self) -> None:
        """Free the engines."""
