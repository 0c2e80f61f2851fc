"""Every command: its help, its exit codes, and JSON where a script would want it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from agent import cli, demo, logs
from agent.checkup.service import read_settings
from agent.commands import run
from agent.errors import AlmenaError
from agent.remote import Wish, keep
from agent.settings import load
from agent.sole import sole_agent
from tests.fakes.certificates import Authority

pytestmark = pytest.mark.unit

FOREGROUND = {"demo", "demo-xray", "run", "fleet enrol-server", "fleet watch"}
"""They run until Ctrl-C, and `events --follow --json` is what a script listens to."""


def leaves(command: Any, path: str = "") -> dict[str, Any]:
    """Commands that do something, by what is typed after `almena`."""
    if not hasattr(command, "list_commands"):
        return {path: command}
    context = typer.Context(command)
    found: dict[str, Any] = {}
    for name in command.list_commands(context):
        found |= leaves(command.get_command(context, name), f"{path} {name}".strip())
    return found


COMMANDS = leaves(typer.main.get_command(cli.app))


@pytest.fixture
def almena(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Exit code, output and errors of `almena ARGUMENTS` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("PYTHONSAFEPATH", "")  # it is for a whole process, and so is what follows
    monkeypatch.setattr(logs, "setup", lambda *_: None)
    mask = os.umask(0o022)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["almena", *arguments])
        try:
            cli.main()
            code: Any = 0
        except SystemExit as end:
            code = end.code or 0
        return (code, *capsys.readouterr())

    yield run
    os.umask(mask)


def test_there_are_the_commands_that_the_readme_names() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text()
    assert set(cli.COMMANDS) == {name.split()[0] for name in COMMANDS}
    assert [name for name in cli.COMMANDS if f"`almena {name}" not in text] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_it_does_and_what_every_option_is_for(name: str, almena: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = almena(*name.split(), "--help")
    assert (code, err) == (0, "")
    command = COMMANDS[name]
    assert len(command.help) > 10
    assert command.help.split("\n")[0][:40] in out
    assert [parameter.name for parameter in command.params if not getattr(parameter, "help", None)] == []


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - FOREGROUND))
def test_scripts_get_json(name: str) -> None:
    assert "--json" in {option for parameter in COMMANDS[name].params for option in parameter.opts}


def test_check_says_what_holds_by_the_hub(almena: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (tmp_path / "almena.yaml").write_text("state_dir: state\n")
    keep(tmp_path / "state", Wish(7, {"streams": [{"name": "yard", "source": {"type": "v4l2"}}]}))
    code, out, _ = almena("check")
    assert (code, "yard: v4l2 -> no task" in out, "from the hub, revision 7: streams" in out) == (0, True, True)
    hub = json.loads(almena("check", "--json")[1])["hub"]
    assert hub == {"revision": 7, "sections": ["streams"], "problem": ""}
    verdict = read_settings(tmp_path / "almena.yaml")[1]
    assert (verdict.state, verdict.text.endswith("1 stream(s); from the hub: streams")) == ("ok", True)
    (tmp_path / "state" / "remote" / "settings.json").write_text("{")
    assert "the settings file holds alone" in almena("check")[1]
    assert read_settings(tmp_path / "almena.yaml")[1].state == "warn"


WRONG: dict[str, tuple[int, str]] = {
    "dragons": (2, "No such command 'dragons'"),
    "check": (2, "almena.yaml: cannot be read"),
    "run": (2, "almena.yaml: cannot be read"),
    "events": (2, "almena.yaml: cannot be read"),
    "events --config right.yaml": (1, "almena run"),
    "events --config right.yaml --since yesterday": (2, "neither like 30m"),
    "identity list": (2, "almena.yaml: cannot be read"),
    "identity add Ada no.jpg": (2, "'no.jpg' does not exist"),
    "identity import right.yaml": (2, "is a file"),
    "identity import .": (2, "make one per person"),
    "identity show Ada --config right.yaml": (2, "there is no identity 'Ada'"),
    "identity rename Ada Bea --config right.yaml": (2, "there is no identity 'Ada'"),
    "identity erase Ada --yes --config right.yaml": (2, "there is no identity 'Ada'"),
    "identity name-cluster u-1 Ada --config right.yaml": (2, "there is no cluster 'u-1'"),
    "models list --config no.yaml": (2, "no.yaml: cannot be read"),
    "models show dragons": (2, "There are: "),
    "models fetch": (2, "name at least one model"),
    "models fetch dragons": (2, "There are: "),
    "tune dragons --config right.yaml": (2, "resnet-50, sface, vgg-16"),
    "tune dragons.onnx --config right.yaml": (2, "bare file"),
    "bench engine dragons --config right.yaml": (2, "resnet-50, sface, vgg-16"),
    "bench http dragons --config right.yaml": (2, "resnet-50, sface, vgg-16"),
    "bench engine centerface --precision fp8": (2, "'fp8' is not one of"),
    "eval faces --pairs no.csv --root .": (2, "'no.csv' does not exist"),
    "eval faces --pairs right.yaml --root .": (2, "missing columns"),
    "join http://fleet cam-1.x.y": (2, "begins with https://"),
    "join https://127.0.0.1:1 cam-1.x.y": (2, "not the whole of it"),
    "join https://127.0.0.1:1": (2, "almena fleet invite NAME"),
    "renew --config right.yaml": (2, "no section `identity`"),
    "bench matrix dlib-resnet --plot rows.pdf": (2, "ends in .png or .svg"),
    "bench matrix dlib-resnet --csv nowhere/rows.csv": (2, "no folder nowhere"),
    "bench fleet --growth --plot nowhere/growth.svg": (2, "no folder nowhere"),
    "eval classify --model chest-xray --data . --plot nowhere/rows.png": (2, "no folder nowhere"),
    "fleet devices": (1, "`almena fleet init --dir almena-fleet` makes a fleet"),
    "fleet list": (2, "which key?"),
    "fleet events --hub no.yaml": (2, "there is no file no.yaml"),
    "fleet command cam status port": (2, "KEY=VALUE"),
    "hub --config no.yaml add-user ada": (2, "no.yaml: cannot be read"),
    "fleet init --url http://f --broker b": (2, "--url"),
    "fleet init --url https://f --broker b --passphrase-file no.txt": (1, "no.txt cannot be read"),
    "identity add Ada right.yaml --expires 2001-01-01": (2, "that day has begun already"),
    "demo --source telescope": (2, "'telescope' is not one of"),
    "demo --dir /dev/null/x": (1, "/dev/null"),
    "demo-xray --dir /dev/null/x": (1, "/dev/null"),
}


@pytest.mark.parametrize("arguments", WRONG)
def test_what_is_wrong_is_said_on_standard_error(arguments: str, almena: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (tmp_path / "right.yaml").write_text("device: {name: cam}\nstate_dir: state\n")
    code, out, err = almena(*arguments.split())
    wanted, message = WRONG[arguments]
    assert (code, out) == (wanted, "")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [one for one in WRONG if one.split()[0] not in FOREGROUND])
def test_scripts_get_what_is_wrong_as_json(arguments: str, almena: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (tmp_path / "right.yaml").write_text("device: {name: cam}\nstate_dir: state\n")
    code, out, _ = almena(*arguments.split(), "--json")
    wanted, message = WRONG[arguments]
    told = json.loads(out)
    assert code == wanted
    assert message in (told["problems"][0] if arguments == "check" else told["error"])
    assert "reasons" in told or arguments == "check"


HOLD = """
import pathlib, sys
from agent.remote import Wish, keep
from agent.sole import sole_agent
with sole_agent(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_agent_on_a_state_folder_is_refused_and_starts_nothing(
    almena: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "Supervisor", None)  # where nothing is refused this fails, instead of running for ever
    state = tmp_path / "state"
    (tmp_path / "right.yaml").write_text("device: {name: cam}\nstate_dir: state\n")
    with subprocess.Popen([sys.executable, "-c", HOLD, str(state)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        (state / "enrolled").touch()
        (tmp_path / "sample.mp4").touch()
        for arguments in ("run --config right.yaml", f"demo --dir {tmp_path}"):
            code, out, err = almena(*arguments.split())
            assert (code, out) == (1, "")
            assert f"an agent runs on {state} already (process {first.pid})" in err
        assert not (tmp_path / "demo.yaml").exists()
        assert not (state / "outbox").exists()
        first.kill()
    with sole_agent(state):
        pass


def test_a_state_folder_that_cannot_be_used_is_named(almena: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (tmp_path / "almena.yaml").write_text("state_dir: /sys/almena\n")
    code, out, err = almena("run")
    assert (code, out) == (2, "")
    assert "state_dir: /sys/almena cannot be used" in err
    assert "set state_dir to another folder" in err
    (tmp_path / "almena.yaml").write_text("state_dir: almena.yaml/x\n")
    code, out, err = almena("run")
    assert (code, out) == (2, "")
    assert f"almena.yaml:1: state_dir: {tmp_path / 'almena.yaml'} is a file" in err


RIGHT = ("check", "identity list", "identity clusters", "models list", "models show centerface", "models passports")
NOTHING_YET = ("identity list", "identity clusters", "models passports")


@pytest.mark.parametrize("arguments", RIGHT)
def test_what_a_fresh_device_answers(arguments: str, almena: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (tmp_path / "right.yaml").write_text("device: {name: cam}\nstate_dir: state\n")
    settings = [] if "show" in arguments else ["--config", "right.yaml"]
    code, out, err = almena(*arguments.split(), "--json", *settings)
    assert (code, err) == (0, "")
    assert (json.loads(out) == []) == (arguments in NOTHING_YET)
    code, out, err = almena(*arguments.split(), *settings)
    assert (code, err) == (0, "")
    assert out.strip()


def test_the_pages_certificate_must_be_one(almena: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    pair = Authority(tmp_path / "ca").server()
    (tmp_path / "almena.yaml").write_text(f"web:\n  tls: {{cert_file: {pair.cert}, key_file: {pair.key}}}\n")
    assert almena("check")[0] == 0
    pair.cert.write_text("-----BEGIN CERTIFICATE-----\njunk\n-----END CERTIFICATE-----\n")
    code, out, err = almena("check")
    assert (code, out) == (2, "")
    assert "almena.yaml: web.tls: certificates or key cannot be used: " in err


@pytest.mark.parametrize(
    ("camera", "source", "shown"), [("/dev/video7", "auto", "v4l2"), (None, "auto", "video"), ("/dev/video7", "clip", "video")]
)
def test_a_demo_takes_the_webcam_that_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, camera: str | None, source: str, shown: str
) -> None:
    monkeypatch.setattr(demo, "_webcam", lambda: camera)
    (tmp_path / "sample.mp4").touch()
    (stream,) = load(demo.write_settings(tmp_path, source)).streams
    assert stream.source.type == shown
    assert shown == "video" or stream.source.device == camera


def test_a_demo_without_its_webcam_fetches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_webcam", lambda: None)
    with pytest.raises(AlmenaError, match="no webcam can be opened"):
        demo.prepare(tmp_path, "webcam")
    assert list(tmp_path.iterdir()) == []


def test_the_version(almena: Callable[..., tuple[int, str, str]]) -> None:
    assert almena("--version") == (0, f"almena {cli.__version__}\n", "")
