"""The console: the pages of the hub in the browser. Static files that use the hub's REST interface alone."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
import re
from functools import cache
from pathlib import Path

from agent.http.files import SHARED

STATIC = Path(__file__).with_name("static")
LASTING = {"Cache-Control": "max-age=31536000, immutable", "Vary": "Accept-Encoding"}
"""Headers of files whose address changes with their content: a browser asks for each once."""
IMPORT = re.compile(r'^import (?:\* as (\w+)|({ .+ })) from "\./([\w.]+)";$', re.MULTILINE)
EXPORT = re.compile(r"^export ((?:async )?function|class|const) (\w+)", re.MULTILINE)


@cache
def sources() -> dict[str, str]:
    """All files by name."""
    return {
        file.name: file.read_text(encoding="utf-8") for folder in (SHARED, STATIC) for file in sorted(folder.iterdir()) if file.is_file()
    }


@cache
def version() -> str:
    """Of all files together: a part of their address."""
    return hashlib.sha256("\0".join(sum(sources().items(), ())).encode()).hexdigest()[:12]


def page(name: str) -> str:
    """A page."""
    return sources()[name].replace("/static/", f"/static/{version()}/")


@cache
def file(name: str) -> tuple[bytes, bytes, str] | None:
    """Content, the same compressed, and media type of a file that pages name."""
    if name not in sources() or name.endswith(".html"):
        return None
    content = (script(name) if name.endswith(".js") else sources()[name]).encode()
    return content, gzip.compress(content), mimetypes.guess_type(name)[0] or "text/plain"


def script(name: str) -> str:
    """A module and all that it needs in one file, because fifty requests take longer: each is a function that gives what it exports."""
    modules: dict[str, str] = {}

    def add(module: str) -> None:
        if module not in modules:
            text = sources()[module]
            for *_, needed in IMPORT.findall(text):
                add(needed)
            modules[module] = text

    add(name)
    return "const modules = {};\n" + "".join(_function(*module) for module in modules.items())


def _function(name: str, text: str) -> str:
    imported = IMPORT.sub(lambda found: f'const {found[1] or found[2].replace(" as ", ": ")} = modules["{found[3]}"];', text)
    body, exports = EXPORT.sub(r"\1 \2", imported), ", ".join(name for _, name in EXPORT.findall(text))
    return f'modules["{name}"] = (() => {{\n{body}return {{ {exports} }};\n}})();\n'
