"""Who may import whom, and what is imported only when it is needed."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import agent.registry
import engines.registry

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
PACKAGES = ("agent", "engines", "calibration", "fleet", "provisioning", "training")
HEAVY = {"cv2", "onnxruntime", "openvino", "av", "onnx", "amqtt", "gi", "jtop", "tensorrt", "tensorflow"}
BEHIND = {
    "agent.sample_clip",
    "calibration.zoo_keras",
    "fleet.store.migrations.env",
    *(f"training.{part}" for part in ("export", "heads", "lite", "loop", "networks", "run", "workers")),
    *(f"engines.convert.onnx_{part}" for part in ("file", "floats", "input", "stacking")),
    *(f"engines.backends.{part}" for part in ("openvino_runtime", "trt_build", "trt_engine", "trt_log")),
}
"""Modules that only plug-ins and bodies of functions import."""

IMPORT_ALL = """
import importlib, json, sys
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
print(json.dumps(sorted(sys.modules)))
"""


def _modules() -> list[str]:
    return [info.name for package in PACKAGES for info in pkgutil.walk_packages([str(ROOT / package)], f"{package}.")]


def _plugins() -> set[str]:
    """Modules that stand in a registry; they are loaded only when somebody asks for their name."""
    tables = [
        table
        for registry in (agent.registry, engines.registry)
        for table in vars(registry).values()
        if isinstance(table, dict) and all(isinstance(value, str) and ":" in value for value in table.values())
    ]
    return {value.partition(":")[0] for table in tables for value in table.values()}


def test_import_contracts_hold() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([str(program), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert "0 broken" in result.stdout


def test_heavy_libraries_wait_until_they_are_needed() -> None:
    plugins = _plugins()
    names = [name for name in _modules() if not name.endswith("__main__") and name not in plugins | BEHIND]
    assert len(names) > 40
    result = subprocess.run([sys.executable, "-c", IMPORT_ALL, json.dumps(names)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    loaded = {name.partition(".")[0] for name in json.loads(result.stdout)}
    assert loaded & HEAVY == set()


@pytest.mark.parametrize("table", ["SOURCES", "TASKS"])
def test_every_plugin_of_the_agent_brings_its_settings(table: str) -> None:
    entries = getattr(agent.registry, table)
    for name in entries:
        plugin = agent.registry.resolve(entries, name, "plug-in")
        assert plugin.Config.model_fields["type"].default == name
        assert plugin.Config is agent.registry.config_of(entries, name, "plug-in")
        owns = plugin.Config.__module__ == plugin.__module__
        assert owns or name in agent.registry.CONFIGS, f"{name}: a plug-in's file owns its settings, or they stand in CONFIGS"


def test_who_reads_settings_loads_no_models_code(tmp_path: Path) -> None:
    settings = tmp_path / "almena.yaml"
    settings.write_text("device: {name: d}\nstreams: [{name: s, source: {type: video, path: almena.yaml}, tasks: [{type: faces}]}]\n")
    read = "; print(json.dumps(sorted(sys.modules)))"
    for program in ("agent.commands.demo", "agent.uplink.app, agent.uplink.web.app, agent.uplink.telemetry"):
        code = f"import json, pathlib, sys, agent.settings, {program}; agent.settings.load(pathlib.Path(sys.argv[1]))" + read
        result = subprocess.run([sys.executable, "-c", code, str(settings)], cwd=ROOT, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert {"numpy", "httpx", "engines.model"} & set(json.loads(result.stdout)) == set(), program


HELP_OF_ALL = """
import re, sys
from importlib.metadata import requires

extras = [re.match(r"[\\w-]+", line)[0] for line in requires("almena") if "extra ==" in line]
for package in [*extras, "cv2", "PIL", "tensorflow", "google.protobuf"]:
    sys.modules[package.replace("-", "_")] = None

import typer
from agent import cli

def ends(command, words):
    names = command.list_commands(None) if hasattr(command, "list_commands") else []
    return [end for name in names for end in ends(command.get_command(None, name), [*words, name])] or [words]

told = ends(typer.main.get_command(cli.app), [])
for words in told:
    try:
        cli.app([*words, "--help"])
    except SystemExit as ended:
        assert not ended.code, words
print("told", len(told))
"""


def test_every_command_tells_its_help_where_only_the_core_is_installed() -> None:
    result = subprocess.run([sys.executable, "-c", HELP_OF_ALL], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout.rsplit("told ", 1)[1]) > 60


@pytest.mark.parametrize(
    ("module", "command", "said"),
    [
        ("sqlalchemy", "hub", "this needs sqlalchemy, which is not installed: pip install 'almena[hub]'"),
        ("cv2", "demo", "not there: cv2: pip install 'almena[demo]'"),
        ("pydicom", "demo-xray", "not there: pydicom: pip install 'almena[demo,dicom]'"),
    ],
)
def test_a_command_whose_extra_is_not_installed_says_what_to_install(module: str, command: str, said: str, tmp_path: Path) -> None:
    """As in an environment without the extra: no finder has the module."""
    code = f"""
import sys, importlib.machinery as machinery
find = machinery.PathFinder.find_spec
machinery.PathFinder.find_spec = lambda name, *more: None if name.partition(".")[0] == {module!r} else find(name, *more)
from agent import cli
cli.app([{command!r}])
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"HOME": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (1, f"almena: {said}\n")
    assert list(tmp_path.iterdir()) == []
