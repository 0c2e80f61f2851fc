"""`almena fleet list`, `show`, `events` …: the hub's API on the command line."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
import yaml

from agent.errors import AlmenaError, UsageError
from agent.moments import moment_of
from agent.yaml_file import YamlFile
from fleet import command_accounts, command_identities, command_upkeep, show
from fleet.client import HubClient, access
from fleet.command_options import AsJson, HubFile, Since, Until

app = typer.Typer(add_completion=False, no_args_is_help=True)
app.add_typer(command_accounts.keys, name="keys")
app.add_typer(command_accounts.users, name="users")
app.add_typer(command_identities.identities, name="identities")
app.add_typer(command_upkeep.maintenance, name="maintenance")
app.command("remove")(command_upkeep.remove)
app.command("give-up")(command_upkeep.give_up)

POLL_S = 0.3
Device = Annotated[str, typer.Argument(help="The device's name.")]
OfDevice = Annotated[str | None, typer.Option("--device", "-d", help="Only this device.")]
OfSite = Annotated[str | None, typer.Option(help="Only this site.")]
OfStream = Annotated[str | None, typer.Option(help="Only this stream.")]
OfKind = Annotated[str | None, typer.Option(help="Only this kind: face, classification, study, stream.")]
OfSubject = Annotated[str | None, typer.Option(help="A name, an identity, a pseudonym, a label or a decision.")]


@app.command("list")
def list_devices(
    search: Annotated[str | None, typer.Argument(help="Part of a name, site, group, note, version or model.")] = None,
    state: Annotated[str | None, typer.Option(help="online, stale, offline or stopped.")] = None,
    site: OfSite = None,
    group: Annotated[str | None, typer.Option(help="Only this group.")] = None,
    alert: Annotated[str | None, typer.Option(help="Where this rule fires; `any` for any.")] = None,
    sort: Annotated[
        str, typer.Option(help="device, state, seen_at, losses, alerts, temperature_c …; with - before it falling.")
    ] = "device",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="So many at most.")] = 1000,
    hub: HubFile = None,
    as_json: AsJson = False,
) -> None:
    """List the fleet's devices as the hub knows them: how they are, their last word, temperature, outbox, losses, alerts."""
    with HubClient(access(hub)) as client:
        wanted = {"search": search, "state": state, "site": site, "group": group, "alert": alert, "sort": sort}
        found = list(client.pages("devices", "devices", "after", limit, **wanted))
    if as_json:
        print(json.dumps(found, indent=2))
        return
    rows = [
        (
            one["device"], one["state"] or "never seen", show.ago(one["seen_at"]), one["site"], one["agent"],
            show.figure(one["figures"], "temperature_c", "{:.0f} °C"), show.figure(one["figures"], "outbox_depth"),
            one["losses"], one["alerts"],
        )
        for one in found
    ]  # fmt: skip
    show.table(("device", "state", "last word", "site", "version", "temperature", "outbox", "lost", "alerts"), rows, "no devices")


@app.command("show")
def show_device(device: Device, hub: HubFile = None, as_json: AsJson = False) -> None:
    """Show all that the hub knows of a device: state, figures, what fires, what it lost."""
    path = f"devices/{quote(device, safe='')}"
    with HubClient(access(hub)) as client:
        found = client.ask("GET", path)
        firing = client.ask("GET", "alerts", state="firing", device=device)["alerts"]
        lost = client.ask("GET", f"{path}/losses")
    if as_json:
        print(json.dumps({**found, "firing": firing, **lost}, indent=2))
        return
    names = {"device": "device", "state": "state", "agent": "version", "site": "site", "group": "group", "note": "note"}
    show.facts(
        {text: found[name] for name, text in names.items()}
        | {"last word": show.ago(found["seen_at"]), "lost events": lost["total"], "missing, not declared": lost["missing_total"]}
    )
    print()
    show.table(("figure", "value"), sorted((found["figures"] or {}).items()), "no telemetry yet")
    for lane, number in lost["begins"].items():
        print(f"{lane}: known from number {number} on; earlier ones went to another hub, never came, or are forgotten here")
    if lost["missing"]:
        gaps = [(one["lane"], one["spool"], one["count"], show.moment(one["since"]), _ranges(one["ranges"])) for one in lost["missing"]]
        show.table(("lane", "spool", "missing", "since", "numbers"), gaps, "")
    show.table(
        ("alert", "stream", "since", "what"), [(a["rule"], a["stream"], show.moment(a["since"]), a["detail"]) for a in firing], "no alerts"
    )


@app.command("events")
def list_events(
    device: OfDevice = None, site: OfSite = None, stream: OfStream = None, kind: OfKind = None, subject: OfSubject = None,
    since: Since = None, until: Until = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1_000_000, help="The newest so many.")] = 100,
    hub: HubFile = None, as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:  # fmt: skip
    """Print events of the fleet, oldest first, by their effective time."""
    with HubClient(access(hub)) as client:
        found = list(client.pages("events", "events", "before", limit, **_filters(device, site, stream, kind, subject, since, until)))
    found.reverse()
    if as_json:
        for event in found:
            print(json.dumps(event, ensure_ascii=False))
        return
    rows = [(show.moment(one["at"]), one["device"], one["stream"], one["kind"], one["type"], one["subject"]) for one in found]
    show.table(("time", "device", "stream", "kind", "type", "subject"), rows, "no events")


@app.command("export")
def export(
    target: Annotated[Path, typer.Argument(help="The file: .csv.")],
    device: OfDevice = None, site: OfSite = None, stream: OfStream = None, kind: OfKind = None, subject: OfSubject = None,
    since: Since = None, until: Until = None, hub: HubFile = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Write the fleet's events into a CSV file, newest first. On the hub's machine `almena hub export` writes Parquet, too."""
    if target.suffix != ".csv":
        raise UsageError(f"{target}: over the API there is CSV; give a name that ends in .csv")
    with HubClient(access(hub)) as client:
        size = client.download("events.csv", target, **_filters(device, site, stream, kind, subject, since, until))
    print(json.dumps({"file": str(target), "bytes": size}) if as_json else f"{target}: {size} bytes")


@app.command("command")
def send_command(
    device: Device,
    name: Annotated[str, typer.Argument(help="status, reload, rebirth …")],
    arguments: Annotated[list[str] | None, typer.Argument(help="KEY=VALUE; a value that is JSON is taken so.")] = None,
    wait_s: Annotated[
        float, typer.Option("--wait", min=0, max=86400, help="Seconds that the reply may take; the command ends with it.")
    ] = 30.0,
    hub: HubFile = None,
    as_json: AsJson = False,
) -> None:
    """Have a device do something, and print its reply. Exit code 1 if it fails or does not answer."""
    given = dict(_argument(text) for text in arguments or ())
    with HubClient(access(hub)) as client:
        body = {"name": name, "args": given, "expires_s": max(wait_s, 1.0)}
        found = client.ask("POST", f"devices/{quote(device, safe='')}/commands", body)
        deadline = time.monotonic() + wait_s
        while found["state"] in ("queued", "sent") and time.monotonic() < deadline:
            time.sleep(POLL_S)
            found = client.ask("GET", f"commands/{found['id']}")
    if as_json:
        print(json.dumps(found, indent=2))
    elif reply := found["reply"]:
        show.facts({"state": found["state"], "code": reply["code"], "detail": reply["detail"]})
        print(yaml.safe_dump(reply["result"], sort_keys=False, allow_unicode=True) if reply["result"] is not None else "", end="")
    if found["state"] != "done" and not as_json:
        why = {"failed": "the device could not do it", "queued": "the hub has no connection to the broker"}
        raise AlmenaError(f"{name} at {device}: {why.get(found['state'], f'no reply within {wait_s:g} s')}")
    if found["state"] != "done":
        raise typer.Exit(1)


@app.command("desired")
def desired(
    device: Device,
    file: Annotated[
        Path | None, typer.Argument(help="YAML with the sections that are wanted; without it, print what is wanted now.")
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Take back what is wanted.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    hub: HubFile = None,
    as_json: AsJson = False,
) -> None:
    """Print or set the settings that are wanted of a device. Before they are sent the difference is shown."""
    path = f"devices/{quote(device, safe='')}/desired"
    with HubClient(access(hub)) as client:
        now = client.ask("GET", path)
        if file is None and not none:
            print(
                json.dumps(now, indent=2) if as_json else yaml.safe_dump(now, sort_keys=False, allow_unicode=True),
                end="\n" if as_json else "",
            )
            return
        state: Any = None if none or file is None else YamlFile(file).raw or {}
        if state is not None and not isinstance(state, dict):
            raise UsageError(f"{file}: there must be sections, like `telemetry:`")
        changes = client.ask("POST", f"{path}/diff", {"state": state or {}})["changes"]
        if not as_json:
            show.table(
                ("setting", "before", "after"), [(one["path"], one["before"], one["after"]) for one in changes], "nothing would change"
            )
        if not (yes or as_json or not sys.stdin.isatty()):
            typer.confirm(f"Send this to {device}?", abort=True)
        sent = client.ask("PUT", path, {"state": state, "revision": now["revision"]})
    print(json.dumps({**sent, "changes": changes}) if as_json else f"revision {sent['revision']} is on its way to {device}")


@app.command("alerts")
def list_alerts(
    everything: Annotated[bool, typer.Option("--all", help="Those that are over, too.")] = False,
    device: OfDevice = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="The newest so many.")] = 100,
    hub: HubFile = None,
    as_json: AsJson = False,
) -> None:
    """List what fires now, newest first."""
    with HubClient(access(hub)) as client:
        state = None if everything else "firing"
        found = list(client.pages("alerts", "alerts", "before", limit, state=state, device=device))
    if as_json:
        print(json.dumps(found, indent=2))
        return
    rows = [
        (a["id"], a["state"], a["device"], a["stream"], a["rule"], show.moment(a["since"]), a["acknowledged_by"], a["detail"])
        for a in found
    ]
    show.table(("id", "state", "device", "stream", "rule", "since", "acknowledged by", "what"), rows, "no alerts")


@app.command("acknowledge")
def acknowledge(alert: Annotated[int, typer.Argument(help="Its id.")], hub: HubFile = None, as_json: AsJson = False) -> None:
    """Say that somebody sees to an alert."""
    with HubClient(access(hub)) as client:
        client.ask("POST", f"alerts/{alert}/acknowledge")
    print(json.dumps({"acknowledged": alert}) if as_json else f"alert {alert} is acknowledged")


def _filters(
    device: str | None, site: str | None, stream: str | None, kind: str | None, subject: str | None, since: str | None, until: str | None
) -> dict[str, Any]:
    now = time.time()
    times = {"since": moment_of(since, now), "until": moment_of(until, now)}
    return {"device": device, "site": site, "stream": stream, "kind": kind, "subject": subject, **times}


def _ranges(pairs: list[tuple[int, int]]) -> str:
    return ", ".join(f"{low}" if low == high else f"{low}-{high}" for low, high in pairs)


def _argument(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise UsageError(f"{text!r}: arguments are given as KEY=VALUE")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
