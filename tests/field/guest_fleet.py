"""Stages `fleet` and `hub` of the field test, inside the machine: a device that joins and leaves, and a fleet's hub."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import time
import urllib.request
from pathlib import Path

from guest_common import OUT, SERVICES, SETTINGS, TOOL, almena, bare, configure, events, given, hung, run, shown, tried, wait

FLEET, BROKER, DEVICE = Path("/var/lib/almena/fleet"), Path("/srv/hub-broker"), Path("/srv/device")
PASSPHRASE = Path("/etc/almena/enrol/ca.passphrase")
OF_FLEET = ("--dir", str(FLEET), "--passphrase-file", str(PASSPHRASE))
HUB_YAML = """\
store: sqlite:////var/lib/almena/hub/hub.sqlite
broker:
  host: localhost
  port: 28883
  tls: {ca_file: /etc/almena/hub/ca.pem, cert_file: /etc/almena/hub/hub.pem, key_file: /etc/almena/hub/hub.pem}
"""
GUESS = """
import http.client, json, ssl, time
from agent.identity.keys import new_key, request_for
body = json.dumps({"name": "gate", "secret": "A" * 43, "request": request_for("gate", new_key())}).encode()
link = http.client.HTTPSConnection("localhost", 9643, context=ssl._create_unverified_context())
answers, until = {}, time.monotonic() + 10
while time.monotonic() < until:
    link.request("POST", "/enrol/1/join", body, {"Content-Type": "application/json"})
    answer = link.getresponse()
    answer.read()
    answers[answer.status] = answers.get(answer.status, 0) + 1
print(json.dumps(answers))
"""


def join() -> str:
    """Invited by a fleet whose broker and enrolment server run here; the identity belongs to the confined uplink."""
    fleet, url = (
        ["env", "ALMENA_FLEET=/srv/fleet", "ALMENA_CA_PASSPHRASE=of-the-field-test", f"{TOOL}/bin/almena", "fleet"],
        "https://localhost:8643",
    )
    run(*fleet, "init", "--url", url, "--broker", "localhost:18883")
    run(*fleet, "broker-config", "/srv/fleet-broker")
    run("systemd-run", "--unit=fleet-broker", "mosquitto", "-c", "/srv/fleet-broker/mosquitto.conf")
    run("systemd-run", "--unit=fleet-server", *fleet, "enrol-server", "--host", "127.0.0.1")
    wait("the enrolment server", lambda: ":8643" in run("ss", "-ltn"), 60)
    token = json.loads(run(*fleet, "invite", "gate", "--no-qr", "--json"))["command"].split()[-1]
    run("almena", "join", url, token, "--config", str(SETTINGS))
    identity = {path.name: path.owner() for path in Path("/var/lib/almena/identity").iterdir()}
    assert set(identity.values()) == {"almena-uplink"}, identity
    run("systemctl", "restart", "almena.target", *SERVICES)
    hub = ["--cafile", "/srv/fleet-broker/ca.pem", "--cert", "/srv/fleet-broker/hub.pem", "--key", "/srv/fleet-broker/hub.pem"]
    said = run("mosquitto_sub", "-h", "localhost", "-p", "18883", *hub, "-t", "almena/1/gate/up/event/#", "-C", "2", "-W", "120")
    assert all(json.loads(line)["id"].startswith("gate/") for line in said.splitlines()), said
    configure("openvino")
    return f"joined by a token; {', '.join(sorted(identity))} belong to almena-uplink; events arrive at the fleet's broker"


def uninstall() -> str:
    almena("uninstall")
    left = []
    for top in ("/etc", "/usr", "/opt", "/var", "/run", "/tmp"):
        left += run("find", top, "-xdev", "-iname", "*almena*", "-not", "-path", "/var/log/*").splitlines()
    data = [path for path in left if path.startswith(("/etc/almena", "/var/lib/almena"))]
    rest = sorted(set(left) - set(data))
    assert not rest, rest
    accounts = [line for name in ("passwd", "group") for line in Path(f"/etc/{name}").read_text().splitlines() if "almena" in line]
    assert not accounts, accounts
    assert Path("/var/lib/almena/outbox/outbox.db").exists()
    almena("install", *given())
    events(1, 120)
    almena("uninstall", "--purge")
    assert not Path("/var/lib/almena").exists()
    return "only /etc/almena and /var/lib/almena stay, of root; installed again it goes on with them; --purge removes them"


def hub() -> str:
    """A hub with its enrolment server, as docs/service.md says it; a device joins there, and the hub hears of it."""
    bare()
    almena("install", "--hub", *given())
    PASSPHRASE.write_text("of-the-field-test\n")
    PASSPHRASE.chmod(0o600)
    run("almena", "fleet", "init", *OF_FLEET, "--url", "https://localhost:9643", "--broker", "localhost:28883", "--delivery", "hub")
    run("almena", "fleet", "broker-config", *OF_FLEET, str(BROKER))
    run("systemd-run", "--unit=hub-broker", "mosquitto", "-c", str(BROKER / "mosquitto.conf"))
    run("install", "-m", "600", str(BROKER / "hub.pem"), "/etc/almena/hub/hub.pem")
    run("install", "-m", "644", str(BROKER / "ca.pem"), "/etc/almena/hub/ca.pem")
    Path("/etc/almena/hub.yaml").write_text(HUB_YAML)
    run("systemctl", "restart", "almena-hub", "almena-enrol")
    wait("the hub to be ready", ready, 120)
    Path("/srv/password").write_text("of-the-field-test\n")
    add = ("hub", "--config", "/etc/almena/hub.yaml", "add-user", "ada", "--password-file", "/srv/password")
    run("runuser", "-u", "almena-hub", "--", "almena", *add)
    joined()
    owners = {path.owner() for path in FLEET.iterdir()}
    assert owners == {"almena-enrol"}, owners
    assert shown("almena-enrol", "ActiveState") == "active"
    return f"almena-hub and almena-enrol run; {', '.join(sorted(path.name for path in FLEET.iterdir()))}; gate joined and is online"


def ready() -> bool:
    """As a balancer would ask."""
    try:
        with urllib.request.urlopen("http://127.0.0.1:8640/readyz", timeout=5) as answer:
            return bool(json.load(answer)["ready"])
    except OSError:
        return False


def state() -> str:
    """What the hub has stored of the device's presence."""
    found = sqlite3.connect("file:/var/lib/almena/hub/hub.sqlite?mode=ro", uri=True).execute("SELECT state FROM devices").fetchall()
    return str(found[0][0]) if found else ""


def joined() -> None:
    """A device, which is an uplink alone, is invited, joins, and is online."""
    token = json.loads(run("almena", "fleet", "invite", "gate", "--dir", str(FLEET), "--no-qr", "--json"))["command"].split()[-1]
    DEVICE.mkdir(exist_ok=True)
    run(f"{TOOL}/bin/almena", "join", "https://localhost:9643", token, "--config", str(DEVICE / "almena.yaml"))
    run("systemd-run", "--unit=device", f"{TOOL}/bin/python", "-m", "agent.uplink", str(DEVICE / "almena.yaml"))
    wait("the device at the hub", lambda: state() == "online", 60)


def hub_confinement() -> str:
    """Neither sees what is the other's, and the CA's key is the enrolment server's alone."""
    found = tried(("hub", "enrol"), {"hub": {"write hub"}, "enrol": {"write fleet", "read ca"}})
    return f"as meant in hub and enrol: {len(found['hub']['tries'])} things tried in each"


def copied() -> str:
    """Two devices with one identity are seen by the enrolment server; revoked, the session is over at once."""
    copy = Path("/srv/copy")
    shutil.copytree(DEVICE, copy, ignore=shutil.ignore_patterns("*.sock", "run"))
    text = (copy / "almena.yaml").read_text()
    (copy / "almena.yaml").write_text(text + "\nweb: {enabled: false}\n")
    began = time.monotonic()
    run("systemd-run", "--unit=copy", f"{TOOL}/bin/python", "-m", "agent.uplink", str(copy / "almena.yaml"))
    wait("the suspicion", lambda: "almena fleet revoke gate" in run("journalctl", "-o", "cat", "-u", "almena-enrol"), 180)
    took = time.monotonic() - began
    run("systemctl", "stop", "copy", check=False)
    wait("the device at the hub", lambda: state() == "online", 120)
    revoked = json.loads(run("almena", "fleet", "revoke", "gate", *OF_FLEET, "--json"))
    wait("its absence", lambda: state() == "offline", 60)
    return f"suspected after {took:.0f} s; revoked, its session ended after {revoked['disconnected_s']:.2f} s"


def guessed() -> str:
    """Two processes guess a token as fast as they can: none is let in, and hardly any is compared."""
    guessers = [subprocess.Popen([f"{TOOL}/bin/python", "-c", GUESS], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found = [json.loads(one.communicate(timeout=120)[0]) for one in guessers]
    compared, limited = (sum(one.get(status, 0) for one in found) for status in ("403", "429"))
    assert {status for one in found for status in one} == {"403", "429"}, found
    assert compared < 30 < limited, found
    return f"{(compared + limited) / 10:.0f} guesses a second for 10 s: none was let in, {compared} were compared, {limited} got 429"


def hub_doctor() -> str:
    """What it says of a hub that is well, but for the clock: there is no time service here."""
    said = run("almena", "hub", "doctor", "--json")
    checks = json.JSONDecoder().raw_decode(said)[0]["checks"]  # the log's words, on standard error, follow
    (OUT / "hub-doctor.txt").write_text(run("almena", "hub", "doctor"))
    assert [check["name"] for check in checks if check["state"] == "warn"] == ["clock"], checks
    (service,) = (check["text"] for check in checks if check["name"] == "service")
    assert "the hub runs, and the enrolment server" in service
    return f"{len(checks)} lines; {service}"


def hub_watchdog() -> str:
    """A hung hub is started again; the enrolment server, which is well, is not."""
    told = hung("almena-hub", lambda: wait("the hub to be ready", ready, 60))
    assert shown("almena-enrol", "NRestarts") == "0"
    assert shown("almena-enrol", "WatchdogUSec") == "1min"
    return told


def hub_uninstall() -> str:
    run("systemctl", "stop", "device", "hub-broker", check=False)
    almena("uninstall")
    assert (FLEET / "ca.p12").exists()
    assert FLEET.owner() == "root"
    almena("install", "--hub", *given())
    wait("the enrolment server", lambda: shown("almena-enrol", "ActiveState") == "active", 60)
    assert FLEET.owner() == "almena-enrol"
    almena("uninstall", "--purge")
    left = run("find", "/etc", "/usr", "/opt", "/var/lib", "/run", "-xdev", "-iname", "*almena*").split()
    assert not left, left
    return "the fleet's folder stays, of root; installed again the enrolment server goes on with it; --purge leaves nothing"
