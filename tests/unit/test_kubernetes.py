"""The manifest of a training on several nodes, against Kubernetes' own schemas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from training.recipe import load

pytestmark = pytest.mark.unit

MANIFEST = Path(__file__).parents[2] / "deploy" / "k8s" / "train.yaml"


def documents() -> dict[str, dict[str, Any]]:
    return {one["kind"]: one for one in yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8"))}


def test_every_document_fits_its_schema() -> None:
    found = documents()
    assert set(found) == {"Service", "Job"}
    for one in found.values():
        kubernetes_validate.validate(one, "1.29", strict=True)
    found["Job"]["spec"]["completion"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(found["Job"], "1.29", strict=True)


def test_workers_stand_apart_and_know_one_another() -> None:
    found = documents()
    job, service = found["Job"]["spec"], found["Service"]
    pod = job["template"]["spec"]
    labels = job["template"]["metadata"]["labels"]
    assert job["completionMode"] == "Indexed"
    assert job["parallelism"] == job["completions"]
    (rule,) = pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert rule["labelSelector"]["matchLabels"] == labels == service["spec"]["selector"]
    name, subdomain = found["Job"]["metadata"]["name"], pod["subdomain"]
    assert subdomain == service["metadata"]["name"]
    (container,) = pod["containers"]
    (peers,) = [entry["value"] for entry in container["env"] if entry["name"] == "ALMENA_WORKERS"]
    port = service["spec"]["ports"][0]["port"]
    assert peers.split(",") == [f"{name}-{number}.{subdomain}:{port}" for number in range(job["completions"])]
    arguments = container["args"]
    assert "--workers" in arguments
    assert load(arguments[arguments.index("--recipe") + 1]).head is None  # one in closed form is fitted by one machine
