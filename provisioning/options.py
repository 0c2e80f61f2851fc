"""Options that several `almena fleet` commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Dir = Annotated[Path, typer.Option("--dir", "-d", envvar="ALMENA_FLEET", help="The fleet's folder.")]
DIR = Path("almena-fleet")
PassphraseFile = Annotated[
    Path | None, typer.Option("--passphrase-file", help="Holds the passphrase of the CA's key; or set $ALMENA_CA_PASSPHRASE, or type it.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
