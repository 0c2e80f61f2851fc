"""`python -m fleet.ingest`: the ingest alone, without page and alerts."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agent import logs
from agent.errors import AlmenaError, SettingsError
from agent.process import refused, starting
from agent.signals import at_stop
from fleet.ingest.ingest import BATCH_OBJECTS, Ingest
from fleet.settings import SQLITE, BrokerSettings
from fleet.store import Store
from fleet.store.care import Care
from fleet.store.erased_list import ErasedList
from fleet.store.sole import sole_hub


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code: 2 for wrong options, 1 where it cannot start; standard error says why."""
    parser = argparse.ArgumentParser(prog="python -m fleet.ingest", description="The hub's ingest alone, without page and alerts.")
    parser.add_argument("--store", default="almena-hub.sqlite", help="SQLite file, or postgresql://… (default: %(default)s)")
    parser.add_argument("--erasures", type=Path, help="file where stands who was erased, outside the database")
    parser.add_argument("--host", default="127.0.0.1", help="the broker (default: %(default)s)")
    parser.add_argument("--port", type=int, default=1883, help="its port (default: %(default)s)")
    parser.add_argument("--mqtt", choices=("auto", "5", "3.1.1"), default="auto", help="version of MQTT (default: %(default)s)")
    parser.add_argument("--client-id", default="almena-hub", help="fixed id of the session that the broker keeps (default: %(default)s)")
    parser.add_argument("--share", default="", help="name that several hubs on one PostgreSQL have in common")
    parser.add_argument("--username")
    parser.add_argument("--password-file", type=Path, help="file with the password; none on the command line, where others could read it")
    parser.add_argument("--ca-file", help="CA certificates in PEM; turns TLS on")
    parser.add_argument("--cert-file", help="client certificate in PEM; turns TLS on")
    parser.add_argument("--key-file", help="its private key")
    options = parser.parse_args(arguments)
    os.umask(0o077)
    logs.setup("ingest")
    try:
        _serve(options)
    except ValidationError as error:
        wrong = (
            f"--{str(one['loc'][-1]).replace('_', '-')}: {one['msg'].removeprefix('Value error, ')}"
            for one in error.errors(include_url=False, include_input=False)
        )
        return refused(SettingsError("\n".join(wrong)))
    except AlmenaError as error:
        return refused(error)
    except OSError as error:
        return refused(AlmenaError(str(error)))
    return 0


def _serve(options: argparse.Namespace) -> None:
    broker = _broker(options)
    url = options.store if "://" in options.store else f"{SQLITE}{Path(options.store).absolute()}"
    with sole_hub(url):
        with starting(young=BATCH_OBJECTS):
            store = Store(url, ErasedList(options.erasures) if options.erasures else None)
        try:
            ingest = Ingest(store, broker, Care(store.engine).round)
            at_stop(ingest.stop)
            ingest.run()
        finally:
            store.close()


def _broker(options: argparse.Namespace) -> BrokerSettings:
    files = {name: value for name in ("ca_file", "cert_file", "key_file") if (value := getattr(options, name))}
    if options.cert_file and not options.key_file:
        files["key_file"] = options.cert_file
    said: dict[str, Any] = {name: getattr(options, name) for name in ("host", "port", "client_id", "share", "username", "password_file")}
    return BrokerSettings.model_validate({**said, "version": options.mqtt, "tls": files or None})


if __name__ == "__main__":
    sys.exit(main())
