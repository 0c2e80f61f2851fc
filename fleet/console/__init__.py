"""The console: the pages of the hub in the browser. Static files that use the hub's REST interface alone."""

from __future__ import annotations

import hashlib
import mimetypes
import re
from functools import cache
from pathlib import Path

from agent.http.files import SHARED

STATIC = Path(__file__).with_name("static")
LASTING = {"Cache-Control": "max-age=31536000, immutable"}
"""Headers of files whose address changes with their content: a browser asks for each once."""


@cache
def files() -> dict[str, tuple[bytes, str]]:
    """Content and media type of each file; they stay in memory, because a page asks for dozens at once."""
    found = {file.name: file for folder in (SHARED, STATIC) for file in folder.iterdir() if file.is_file()}
    return {name: (file.read_bytes(), mimetypes.guess_type(name)[0] or "text/plain") for name, file in sorted(found.items())}


@cache
def version() -> str:
    """Of all files together: a part of their address."""
    return hashlib.sha256(b"".join(name.encode() + content for name, (content, _) in files().items())).hexdigest()[:12]


@cache
def page(name: str) -> str:
    """A page that names all modules it needs, so that the browser asks for them together and not one behind the other."""
    text = files()[name][0].decode()
    modules: dict[str, None] = {}
    wanted = re.findall(r'src="/static/([\w.]+)"></script>', text)
    while wanted:
        module = wanted.pop()
        if module not in modules:
            modules[module] = None
            wanted += re.findall(r' from "\./([\w.]+)";', files()[module][0].decode())
    links = "".join(f'  <link rel="modulepreload" href="/static/{module}">\n' for module in modules)
    return text.replace("</head>", f"{links}</head>").replace("/static/", f"/static/{version()}/")
