"""A hub's API for the command line. The address and the key come from the environment or a file that only its owner reads."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from pydantic import Field, SecretStr, ValidationError

from agent.config import LOOPBACK, Config, ExistingFile
from agent.errors import AlmenaError, SettingsError, UnknownError, UsageError
from agent.yaml_file import YamlFile
from fleet.web_address import WebAddress

URL, KEY, FILE = "ALMENA_HUB_URL", "ALMENA_HUB_KEY", "ALMENA_HUB_FILE"
TIMEOUT_S = 30.0


class HubAccess(Config):
    """Which hub, and the key for it."""

    url: WebAddress = "http://127.0.0.1:8640/"
    key: SecretStr | None = None
    ca_file: ExistingFile | None = Field(None, description="CA certificates in PEM; default: the system's.")


class HubClient:
    """Requests to a hub. Raises UsageError, UnknownError or AlmenaError with the hub's own sentence."""

    def __init__(self, access: HubAccess) -> None:
        if access.key is None:
            raise UsageError(f"which key? Set ${KEY}, or write `key:` into {default_file()}; the console makes keys under Accounts")
        host = urlsplit(access.url)
        if host.scheme != "https" and host.hostname not in LOOPBACK:
            raise UsageError(f"{access.url}: a key goes over https only, but to this machine itself")
        if not re.fullmatch(r"[!-~]+", key := access.key.get_secret_value()):
            raise UsageError(f"the key in ${KEY} or {default_file()} has characters that no key has: copy it again")
        headers = {"Authorization": f"Bearer {key}"}
        verify = str(access.ca_file) if access.ca_file else True
        self._url = access.url
        self._http = httpx.Client(base_url=access.url.rstrip("/") + "/api/v1/", headers=headers, verify=verify, timeout=TIMEOUT_S)

    def __enter__(self) -> HubClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ask(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """The JSON of an answer; None where there is none."""
        with self._told():
            asked = {name: value for name, value in query.items() if value is not None}
            answer = self._http.request(method, path, json=body, params=asked)
            _require(answer)
            return answer.json() if answer.content else None

    def pages(self, path: str, name: str, cursor: str, count: int, **query: Any) -> Iterator[dict[str, Any]]:
        """The newest or first `count` of a list that comes in pages; `cursor` is the parameter that takes `next`."""
        after = None
        while count > 0:
            page = self.ask("GET", path, **{**query, "limit": min(count, 500), cursor: after})
            yield from page[name]
            count -= len(page[name])
            after = page["next"]
            if after is None:
                return

    def download(self, path: str, target: Path, **query: Any) -> int:
        """An answer into a file, which is there only once it is whole; returns its bytes."""
        asked = {name: value for name, value in query.items() if value is not None}
        part = target.with_name(f"{target.name}.part")
        try:
            with self._told(), self._http.stream("GET", path, params=asked) as answer, part.open("wb") as file:
                if answer.is_error:
                    answer.read()
                _require(answer)
                for piece in answer.iter_bytes():
                    file.write(piece)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        return target.stat().st_size

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            raise AlmenaError(f"the hub at {self._url} does not answer: {error}; is `almena hub` running there?") from error


def access(file: Path | None = None) -> HubAccess:
    """What the environment says, and for the rest the file. Raises SettingsError, UsageError."""
    path = file or Path(os.environ.get(FILE) or default_file())
    given: Any = {}
    if path.exists():
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise UsageError(f"{path} holds a key, and others may read it: chmod 600 {path}")
        given = YamlFile(path).raw or {}
    elif file is not None:
        raise UsageError(f"there is no file {path}")
    for name, variable in (("url", URL), ("key", KEY)):
        if (value := os.environ.get(variable)) and isinstance(given, dict):
            given = {**given, name: value}
    try:
        return HubAccess.model_validate(given, context={"base": path.resolve().parent})
    except ValidationError as error:
        lines = "\n".join(
            f"{path}: {'.'.join(map(str, one['loc']))}: {one['msg'].removeprefix('Value error, ')}"
            for one in error.errors(include_input=False)
        )
        raise SettingsError(lines) from None


def default_file() -> Path:
    """Where people keep the address and the key of their hub."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "almena" / "hub.yaml"


def _require(answer: httpx.Response) -> None:
    if not answer.is_error:
        return
    try:
        problem = answer.json()
        message = problem.get("detail") or problem["title"]
    except (ValueError, KeyError, AttributeError):
        message = f"the hub answered {answer.status_code}"
    kind = {404: UnknownError, 422: UsageError, 401: UsageError, 403: UsageError}.get(answer.status_code, AlmenaError)
    raise kind(message)
