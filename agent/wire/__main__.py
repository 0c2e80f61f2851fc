"""`python -m agent.wire --write docs/schemas` writes the JSON Schemas."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from agent.wire.payloads import schemas


def files() -> dict[str, str]:
    """File name to text of every schema."""
    return {f"{name}.json": json.dumps(schema, indent=2, sort_keys=True) + "\n" for name, schema in schemas().items()}


def main() -> None:
    """Write the files and remove those that no payload has any more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, required=True, metavar="FOLDER")
    folder: Path = parser.parse_args().write
    folder.mkdir(parents=True, exist_ok=True)
    wanted = files()
    for old in folder.glob("*.json"):
        if old.name not in wanted:
            old.unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
