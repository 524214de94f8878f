"""The Kubernetes manifest: against KubeRay's types, Kubernetes' own schemas, and the command that it calls."""

from __future__ import annotations

import copy
import itertools
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml
from typer.testing import CliRunner

import orchestrator
from orchestrator.cli import app

MANIFEST = Path(orchestrator.__file__).parent / "places" / "rayjob.yaml"
SCHEMA = Path(__file__).parent / "schemas" / "rayjob.json"
OLDEST_KUBERNETES = "1.28"
QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|[MGTPE]|[KMGTPE]i)?")


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))
    return content


def complaints(manifest: dict[str, Any]) -> list[str]:
    """What KubeRay's types find wrong, and what the oldest and the newest known Kubernetes find wrong with its pods."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    found = [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(manifest)]
    if found:
        return found
    for group in (head(manifest), worker(manifest)):
        # Kubernetes' schemas take any text for an amount; its server does not.
        amounts = itertools.chain.from_iterable(kind.values() for kind in container(group)["resources"].values())
        found += [f"no amount: {amount}" for amount in amounts if not QUANTITY.fullmatch(amount)]
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": group["template"]}
        for version in (OLDEST_KUBERNETES, kubernetes_validate.latest_version()):
            try:
                kubernetes_validate.validate(pod, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                found.append(f"Kubernetes {version}: {error}")
    return found


def test_the_manifest_is_valid(manifest: dict[str, Any]) -> None:
    assert complaints(manifest) == []


def head(manifest: dict[str, Any]) -> dict[str, Any]:
    group: dict[str, Any] = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]
    return group


def worker(manifest: dict[str, Any]) -> dict[str, Any]:
    group: dict[str, Any] = manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    return group


def container(group: dict[str, Any]) -> dict[str, Any]:
    (found,) = group["template"]["spec"]["containers"]
    return found  # type: ignore[no-any-return]


MUTANTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "another version of the API": lambda job: job.update(apiVersion="ray.io/v1alpha1"),
    "a misspelt field": lambda job: job["spec"].update(ttlSecondsAfterFinish=job["spec"]["ttlSecondsAfterFinished"]),
    "a number as text": lambda job: job["spec"].update(backoffLimit="3"),
    "a start parameter that is no text": lambda job: head(job)["rayStartParams"].update({"num-gpus": 0}),
    "no start parameters": lambda job: worker(job).pop("rayStartParams"),
    "a head without a pod": lambda job: head(job).pop("template"),
    "a GPU in a wrong place": lambda job: container(worker(job)).update({"nvidia.com/gpu": "1"}),
    "an environment variable that is no text": lambda job: container(head(job))["env"].append(
        {"name": "HF_HUB_OFFLINE", "value": 1}
    ),
    "a name that makes no label": lambda job: job["metadata"].update(name="4bits"),
    "a volume that no Kubernetes knows": lambda job: worker(job)["template"]["spec"]["volumes"][0].update(claim="data"),
    "a mount without a path": lambda job: container(head(job))["volumeMounts"][0].pop("mountPath"),
    "an amount that is none": lambda job: container(head(job))["resources"]["limits"].update(cpu="4 cores"),
    "a container without a name": lambda job: container(worker(job)).pop("name"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_manifest_is_refused(manifest: dict[str, Any], mutant: str) -> None:
    changed = copy.deepcopy(manifest)
    MUTANTS[mutant](changed)
    assert complaints(changed)


def test_every_mount_has_its_volume_and_both_kinds_of_pods_see_the_study(manifest: dict[str, Any]) -> None:
    for group in (head(manifest), worker(manifest)):
        volumes = {volume["name"]: volume for volume in group["template"]["spec"]["volumes"]}
        # A name and one kind.
        assert {len(volume) for volume in volumes.values()} == {2}
        mounts = {mount["name"]: mount["mountPath"] for mount in container(group)["volumeMounts"]}
        assert volumes.keys() == mounts.keys()
        assert "persistentVolumeClaim" in volumes["data"]
        assert f"--study {mounts['data']}/" in manifest["spec"]["entrypoint"]


def test_workers_alone_have_gpus_and_ask_for_what_they_may_use(manifest: dict[str, Any]) -> None:
    assert container(worker(manifest))["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in container(head(manifest))["resources"]["limits"]
    for group in (head(manifest), worker(manifest)):
        resources = container(group)["resources"]
        assert resources["requests"] == resources["limits"]


def test_all_pods_have_one_image_with_the_ray_that_is_tested(manifest: dict[str, Any]) -> None:
    assert container(head(manifest))["image"] == container(worker(manifest))["image"]
    assert manifest["spec"]["rayClusterSpec"]["rayVersion"] == ray.__version__


def test_the_entrypoint_is_a_call_that_the_command_understands(manifest: dict[str, Any]) -> None:
    program, *arguments = shlex.split(manifest["spec"]["entrypoint"])
    assert program == "qstudy"
    assert "--address" in arguments
    # It gets as far as looking for the grid.
    result = CliRunner().invoke(app, arguments)
    assert "No such option" not in result.output
    assert "/data/grid.yaml" in str(result.exception) + result.output
