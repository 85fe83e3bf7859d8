"""Every variable that a deploy file sets is one that somebody reads: a renamed setting fails here."""

import re

import pytest

from infra.settings import Settings, load_settings
from tests.deploy.files import compose, containers, image_environment, object_of

SETTINGS = {name.upper() for name in Settings.__struct_fields__}
# Read by others: Python, Ray and its cluster, the servers' own images, the container runtime for GPUs.
OTHERS = {
    *("PATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"),
    *("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED", "RAY_worker_niceness"),
    *("RAY_SERVE_THROUGHPUT_OPTIMIZED", "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH"),
    *("RAY_SERVE_ENABLE_DIRECT_INGRESS", "RAY_SERVE_LOG_TO_STDERR"),
    *("POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD", "REDISCLI_AUTH"),
    *("NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"),
    "RAY_CLUSTER_NAME",  # read by the line below it, to name the head's Service
}
_DEFAULT = re.compile(r"\$\{\w+(?::[-?]([^}]*))?\}")


def in_compose() -> dict[str, dict[str, str]]:
    services = compose()["services"].items()
    return {name: service.get("environment", {}) for name, service in services}


def in_kubernetes() -> dict[str, dict[str, str]]:
    found = {
        name: {given["name"]: given.get("value", "") for given in container.get("env", [])}
        for name, container in containers()
    }
    return {**found, "config": object_of("ConfigMap")["data"]}


def in_images() -> dict[str, dict[str, str]]:
    return {name: image_environment(name) for name in ("gateway", "ray")}


@pytest.mark.parametrize("place", [in_compose, in_kubernetes, in_images])
def test_every_variable_is_one_that_somebody_reads(place: object) -> None:
    assert callable(place)
    for name, environment in place().items():
        assert set(environment) <= SETTINGS | OTHERS, name


@pytest.mark.parametrize("place", [in_compose, in_kubernetes, in_images])
def test_every_value_of_a_setting_is_one_that_it_takes(place: object) -> None:
    assert callable(place)
    for environment in place().values():
        given = {name: _resolved(str(value or "")) for name, value in environment.items()}
        load_settings({name: value for name, value in given.items() if name in SETTINGS})


def _resolved(value: str) -> str:
    return _DEFAULT.sub(
        lambda found: "given" if found[0].startswith("${") and ":?" in found[0] else found[1], value
    )


def test_each_part_is_told_what_it_cannot_do_without() -> None:
    needed = {
        "migrate": {"DATABASE_URL"},
        "billing": {"DATABASE_URL"},
        "gateway": {"DATABASE_URL", "RAY_ADDRESS", "RAY_AUTH_TOKEN", "LIMITS_STORAGE_URI"},
        "engines": {"RAY_ADDRESS", "RAY_AUTH_TOKEN"},
        "ray": {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"},
    }
    for name, variables in needed.items():
        assert variables <= set(in_compose()[name]), name
    given = dict(containers())
    secret = {"secretRef": {"name": "aiaas"}}
    for name in ("aiaas-migrate/migrate", "aiaas-billing/billing", "gateways/gateway"):
        assert secret in given[name]["envFrom"], name
    assert {"RAY_ADDRESS", "RAY_AUTH_TOKEN"} <= set(in_kubernetes()["gateways/gateway"])
