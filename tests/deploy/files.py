"""How the tests read the files of `infra/deploy/`."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "infra" / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))

Object = dict[str, Any]

_ARGUMENT = re.compile(r"^ARG (\w+)=(\S+)$", re.MULTILINE)
_VARIABLES = re.compile(r"^ENV ((?:.*\\\n)*.*)$", re.MULTILINE)
_VARIABLE = re.compile(r"(\w+)=(\S+)")


def objects() -> list[Object]:
    """Every Kubernetes object of every manifest, the kustomization excepted."""
    found = [item for path in MANIFESTS for item in yaml.safe_load_all(path.read_text("utf-8"))]
    return [item for item in found if item["kind"] != "Kustomization"]


def object_of(kind: str, name: str = "aiaas") -> Object:
    """The one object of this kind and name."""
    (found,) = [item for item in objects() if (item["kind"], item["metadata"]["name"]) == (kind, name)]
    return found


def ray_groups() -> dict[str, Object]:
    """The head's group and the workers' groups of the Ray cluster, by name."""
    cluster = object_of("RayService")["spec"]["rayClusterConfig"]
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"], **groups}


def pod_templates() -> dict[str, Object]:
    """Every pod template, by the name of what it belongs to."""
    templates = {name: group["template"] for name, group in ray_groups().items()}
    for item in objects():
        if item["kind"] in ("Deployment", "Job"):
            templates[item["metadata"]["name"]] = item["spec"]["template"]
    return templates


def containers() -> Iterator[tuple[str, Object]]:
    """Every container, with the name of the pod template it is in."""
    for name, template in pod_templates().items():
        for container in template["spec"]["containers"]:
            yield f"{name}/{container['name']}", container


def serve_config() -> Object:
    """What the RayService has Serve deploy."""
    return yaml.safe_load(object_of("RayService")["spec"]["serveConfigV2"])


def compose() -> Object:
    """`compose.yaml`, anchors resolved, variables as they are written."""
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))


def dockerfile(name: str) -> str:
    """The text of `<name>.Dockerfile`."""
    return (DEPLOY / f"{name}.Dockerfile").read_text("utf-8")


def build_arguments(name: str) -> dict[str, str]:
    """The build arguments of an image that have a default."""
    return dict(_ARGUMENT.findall(dockerfile(name)))


def image_environment(name: str) -> dict[str, str]:
    """What an image sets in the environment, that of its build excepted."""
    *_, last_stage = dockerfile(name).split("\nFROM ")
    return dict(_VARIABLE.findall("\n".join(_VARIABLES.findall(last_stage))))
