"""At which door this device shares identities, kept beyond the settings: where they name no door any more, it still says there that it
leaves."""

from __future__ import annotations

from pathlib import Path

from agent.identity.address import Address
from engines.files import replacing


class SharedAt:
    """A file in the uplink's folder."""

    def __init__(self, state_dir: Path) -> None:
        self._file = state_dir / "uplink" / "shared-at"

    @property
    def url(self) -> str:
        """The door's address; empty where this device shares nothing."""
        try:
            url = self._file.read_text()
            Address.of(url)
        except (OSError, ValueError):
            return ""
        return url

    def note(self, url: str) -> None:
        """From now on it shares there. Raises OSError."""
        if self.url != url:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._file) as part:
                part.write_text(url)

    def forget(self) -> None:
        """It shares nothing any more. Raises OSError."""
        self._file.unlink(missing_ok=True)
