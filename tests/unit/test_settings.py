"""The settings file: what is wrong is said with path and line, all of it at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError
from typer.testing import CliRunner

from agent import settings
from agent.cli import app
from agent.errors import SettingsError
from tests.fakes.door_site import DoorSite

pytestmark = pytest.mark.unit

GOOD = """\
device: {name: door}
state_dir: state
streams:
  - name: photos
    source:
      type: folder
      path: pictures
    tasks:
      - type: faces
mqtt:
  host: broker.example
"""
FLEET = "identity: {url: https://fleet.example:8643}\nhub: {url: https://hub.example:8641"


LAUGHS = "a: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(f"b{n}: &a{n + 1} [{','.join([f'*a{n}'] * 10)}]\n" for n in range(12))
"""Ten to the thirteenth, written in a few lines."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    return tmp_path / "almena.yaml"


def wrong(path: Path, text: str) -> list[str]:
    """The lines of the error, without the path."""
    path.write_text(text)
    with pytest.raises(SettingsError) as error:
        settings.load(path)
    lines = str(error.value).splitlines()
    assert all(line.startswith(f"{path}:") for line in lines)
    return [line.removeprefix(f"{path}:") for line in lines]


def test_relative_paths_start_at_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text(GOOD)
    monkeypatch.chdir("/")
    found = settings.load(path)
    assert found.state_dir == path.parent / "state"
    assert found.streams[0].source.path == path.parent / "pictures"
    assert found.outbox_dir == path.parent / "state" / "outbox"
    assert found.control_socket == path.parent / "state" / "run" / "vision.sock"


def test_an_empty_file_is_all_defaults(path: Path) -> None:
    path.write_text("")
    assert settings.load(path).streams == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD + "  hosst: a\n", ["12: mqtt.hosst: unknown key"]),
        (GOOD.replace("  path: pictures", "  path: pictures\n      wach: true"), ["8: streams[0].source.wach: unknown key"]),
        (GOOD.replace("type: faces", "type: faces\n        sore: 1"), ["10: streams[0].tasks[0].sore: unknown key"]),
        (GOOD + "  port: often\n", ["12: mqtt.port: must be a valid integer"]),
        (GOOD + "host: a\nhost: b\n", ["12: host: unknown key", "12: host: given twice"]),
        (GOOD + "  port: 1\n  port: 2\n", ["12: mqtt.port: given twice"]),
        (GOOD.replace("type: folder", "type: folda"), ["6: streams[0].source.type: no source is called 'folda'. Did you mean 'folder'?"]),
        (GOOD.replace("      type: folder\n", ""), ["5: streams[0].source: must be a mapping with `type`"]),
        (GOOD.replace("name: photos", "nam: photos"), ["4: streams[0].name: is required", "4: streams[0].nam: unknown key"]),
        (GOOD.replace("{name: door}", "{name: hub}"), ["1: device.name: 'hub' is reserved"]),
        (GOOD + "hub: {url: 'https://hub:8641'}\n", ["1: the hub knows a device by its certificate and asks over the broker"]),
        (GOOD + FLEET.replace("s://hub", "://hub") + "}\n", ["13: hub.url: 'http://hub.example:8641' is no address"]),
        (GOOD + "  password: a\n  tls: {ca_file: nowhere.pem}\n", ["13: mqtt.tls.ca_file: "]),
        (GOOD.replace("device: {", "device: }"), ["1: not valid YAML: "]),
        ("a: 1\nb: [1\nc: 2\n", ["3: not valid YAML: "]),
        ("- a\n", ["1: "]),
        ("streams: 3\n", ["1: streams: must be a list"]),
        ("streams:\n- 3\n", ["2: streams[0]: must be a mapping"]),
        (GOOD.replace("tasks:", "tasks: 3 #").replace("      - type: faces", ""), ["8: streams[0].tasks: must be a list"]),
        ("device: {name: 3}\nweb: {enabled: perhaps}\n", ["1: device.name: must be text", "2: web.enabled: must be true or false"]),
        ("device: {name: Door}\n", ["1: device.name: must be lower-case letters, digits and dashes, at most 63, and begin with"]),
        ("outbox:\n  audit: {max_age_s: 3}\n", ["2: outbox.audit.max_age_s: unknown key"]),
        ("state_dir: almena.yaml/state\n", ["1: state_dir: "]),
        ("web:\n  host: 0.0.0.0\n", ["1: web: 0.0.0.0 can be reached from the network: set web.tls and web.login"]),
        ("web:\n  login:\n    password_hash: $argon2id$nonsense\n", ["3: web.login.password_hash: is no argon2id hash"]),
        ("a: &a [*a]\n", ["1: a: unknown key"]),
        ("a: 1\nb: " + "[" * 3000 + "]" * 3000, [" nested too deeply"]),
        (LAUGHS, ["1: a: unknown key", "2: b0: unknown key"]),
        ("web:\n  port: " + "9" * 5000 + "\n", ["2: cannot be taken for a value of the kind int"]),
        ("web: {}\ndevice: \0\n", ["2: not valid YAML: a character that must not be there, '\\x00'"]),
        ('web: {}\nstate_dir: "a\\0b"\n', ["2: state_dir: must be one line without control characters"]),
        ('state_dir: ""\n', ["1: state_dir: must not be empty"]),
        ('state_dir: "a\\nb"\n', ["1: state_dir: must be one line without control characters"]),
        ('mqtt:\n  password_file: ""\n', ["2: mqtt.password_file: must not be empty"]),
        ('mqtt:\n  host: ""\n', ["2: mqtt.host: must not be empty"]),
        ('mqtt:\n  host: "broker\\n"\n', ["2: mqtt.host: must be one line without control characters, not 'broker\\n'"]),
        ("mqtt:\n  host: mqtt://broker\n", ["2: mqtt.host: must be a host name or an address alone, without scheme"]),
        ("mqtt:\n  host: broker:1883\n", ["2: mqtt.host: must be a host name or an address alone"]),
        ("mqtt:\n  host: '[::1]'\n", ["2: mqtt.host: must be a host name or an address alone"]),
        ('mqtt:\n  username: ""\n', ["2: mqtt.username: must not be empty"]),
        ('mqtt:\n  username: "a\\0"\n', ["2: mqtt.username: must be one line"]),
        ('web:\n  host: ""\n', ["2: web.host: must not be empty"]),
        ('web:\n  allowed_hosts: [cam.example, "a b"]\n', ["2: web.allowed_hosts[1]: must be a host name"]),
        ('dicom:\n  receiver: {host: ""}\n', ["2: dicom.receiver.host: must not be empty"]),
        ("dicom:\n  destination: {host: 'pacs/x'}\n", ["2: dicom.destination.host: must be a host name"]),
        ("state_dir: ~nobody-here/x\n", ["1: state_dir: there is no user ~nobody-here"]),
        ("? [1, 2]\n: 3\n", ["1: "]),
        ("1: 3\n", ["1: "]),
    ],
)  # fmt: skip
def test_what_is_wrong(path: Path, text: str, expected: list[str]) -> None:
    found = wrong(path, text)
    assert len(found) >= len(expected)
    for start in expected:
        assert any(line.startswith(start) for line in found), found


def test_all_problems_at_once(path: Path) -> None:
    found = wrong(path, GOOD.replace("type: folder", "type: folda") + "  port: x\nsurplus: 1\n")
    assert [line.partition(":")[0] for line in found] == ["6", "12", "13"]


@pytest.mark.parametrize(
    ("part", "instead"),
    [
        ("argon2id", "argon2i"),
        ("=4096,", "=many,"),
        ("=4096,", "=7,"),
        ("t=1", "t=0"),
        ("p=1", "p=0"),
        ("AAAAAAAAAAAAAAAAAAAAAA", "AAAAAA"),
        ("AAAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAA"),
        ("$BBBBBBBB", "$"),
        ("$BBBBBBBB", ""),
        ("BBBBBBBB", "BBBB…BBBB"),
    ],
)
def test_a_hash_that_no_password_can_match(part: str, instead: str) -> None:
    whole = "$argon2id$v=19$m=4096,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$BBBBBBBB"
    with pytest.raises(VerifyMismatchError):
        PasswordHasher().verify(settings.LoginSettings(password_hash=whole).password_hash, "a")
    broken = whole.replace(part, instead)
    assert broken != whole
    with pytest.raises(ValueError, match="is no argon2id hash"):
        settings.LoginSettings(password_hash=broken)
    with pytest.raises((VerificationError, InvalidHashError, UnicodeError)):
        PasswordHasher().verify(broken, "a")


def test_a_password_is_not_repeated_in_the_message(path: Path) -> None:
    text = GOOD + "  password: [hunter2]\n"
    assert "hunter2" not in "".join(wrong(path, text))


def test_files_that_cannot_be_read(path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        settings.load(path)
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        settings.load(path.parent)
    path.write_bytes(b"web: {}\n\xff\xfe\x00")
    with pytest.raises(SettingsError, match=r"almena\.yaml:2: cannot be read: byte 0xff is not UTF-8"):
        settings.load(path)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("", "pictures: none leaves the device\n"),
        (FLEET + "}\n", "pictures: none leaves the device\n"),
        (FLEET + ", identities: true}\n", "pictures: none leaves the device; identities are shared with the fleet\n"),
        (
            FLEET + ", pictures: true, live: true}\n",
            "pictures: faces with their events, and snapshots when somebody at the hub asks, live pictures while somebody at the hub looks,"
            " to https://hub.example:8641\n",
        ),
    ],
)
def test_check_says_which_pictures_leave_the_device(path: Path, more: str, expected: str) -> None:
    DoorSite(path.parent / "fleet").device("door", folder=path.parent / "state" / "identity")
    path.write_text(GOOD + more)
    result = CliRunner().invoke(app, ["check", "--config", str(path)])
    assert expected in result.stdout, result.output


def test_check_tells_all_that_is_wrong_at_once(path: Path) -> None:
    stream = "  - {{name: {}, source: {{type: v4l2{}}}, tasks: [{{type: faces, detector: nope}}]}}\n"
    (path.parent / "ca.pem").write_text("no certificate")
    path.write_text(
        "surplus: 1\nmqtt: {host: a, tls: {ca_file: ca.pem}}\nstreams:\n" + stream.format("one", ", fps: no") + stream.format("two", "")
    )
    result = CliRunner().invoke(app, ["check", "--json", "--config", str(path)])
    problems = json.loads(result.stdout)["problems"]
    places = [":4: streams[0].source", ":1: surplus: unknown key", ": streams.two.detector: ", ": mqtt.tls: certificates"]
    assert [place in problem for place, problem in zip(places, problems, strict=True)] == [True] * 4, problems


def test_check_warns_of_settings_by_which_nothing_is_looked_at(path: Path) -> None:
    path.write_text("")
    assert "warning: there are no streams" in CliRunner().invoke(app, ["check", "--config", str(path)]).stdout
    path.write_text("serving:\n  models: [{name: faces, card: centerface}]\n")
    assert "warning" not in CliRunner().invoke(app, ["check", "--config", str(path)]).stdout


@pytest.mark.parametrize("command", ["check", "run"])
def test_commands_say_it_and_start_nothing(path: Path, command: str) -> None:
    path.write_text(GOOD + "surplus: 1\n")
    result = CliRunner().invoke(app, [command, "--config", str(path)])
    assert result.exit_code == 2
    assert f"{path}:12: surplus: unknown key" in result.stderr
    assert not (path.parent / "state").exists()
