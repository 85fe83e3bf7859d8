"""compose.yaml is whole: who waits for whom, what is published, what has to be given."""

import re
from typing import Any

import pytest

from gateway.worker import DRAIN_TIMEOUT_S
from tests.deploy.files import DEPLOY, ROOT, build_arguments, compose

SERVICES: dict[str, dict[str, Any]] = compose()["services"]
LISTENING = {"postgres", "valkey", "ray", "engines", "gateway"}
_INTERPOLATED = re.compile(r"(?<!\$)\$\{(\w+)(:?[-?][^}]*)?\}")


def written() -> str:
    return (DEPLOY / "compose.yaml").read_text("utf-8")


def test_it_has_one_service_for_each_part() -> None:
    assert set(SERVICES) == {"postgres", "valkey", "migrate", "ray", "engines", "gateway", "billing"}


def test_only_the_gateway_is_published_and_on_loopback_unless_told() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["gateway"]
    assert SERVICES["gateway"]["ports"] == ["${AIAAS_HOST:-127.0.0.1}:${AIAAS_PORT:-8080}:8080"]
    assert not [name for name, service in SERVICES.items() if "network_mode" in service]


def test_no_secret_has_a_default() -> None:
    secrets = {name: given for name, given in _INTERPOLATED.findall(written()) if _is_secret(name)}
    assert set(secrets) == {"POSTGRES_PASSWORD", "VALKEY_PASSWORD", "RAY_AUTH_TOKEN"}
    for name, given in _INTERPOLATED.findall(written()):
        assert not _is_secret(name) or given.startswith(":?"), name


def _is_secret(name: str) -> bool:
    return any(word in name for word in ("PASSWORD", "TOKEN", "SECRET", "KEY"))


def test_whoever_waits_for_another_waits_for_something_it_can_say() -> None:
    for service in SERVICES.values():
        for name, wait in service.get("depends_on", {}).items():
            if wait["condition"] == "service_healthy":
                assert "disable" not in SERVICES[name].get("healthcheck", {})
                assert "healthcheck" in SERVICES[name] or _image_says(SERVICES[name])
            else:
                assert wait["condition"] == "service_completed_successfully"
                assert SERVICES[name]["restart"] == "no"


def _image_says(service: dict[str, Any]) -> bool:
    return "HEALTHCHECK" in (ROOT / service["build"]["dockerfile"]).read_text("utf-8")


@pytest.mark.parametrize("name", SERVICES)
def test_what_listens_is_probed_and_what_does_not_is_not(name: str) -> None:
    service = SERVICES[name]
    probed = "healthcheck" in service or ("build" in service and _image_says(service))
    switched_off = service.get("healthcheck", {}).get("disable", False)
    assert (probed and not switched_off) == (name in LISTENING)


@pytest.mark.parametrize("name", [name for name, service in SERVICES.items() if "build" in service])
def test_what_is_built_exists(name: str) -> None:
    build = SERVICES[name]["build"]
    assert (DEPLOY / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()
    image = build["dockerfile"].rsplit("/", 1)[-1].removesuffix(".Dockerfile")
    assert set(build.get("args", {})) <= set(build_arguments(image))


@pytest.mark.parametrize("name", SERVICES)
def test_nobody_gains_privileges(name: str) -> None:
    assert "no-new-privileges:true" in SERVICES[name]["security_opt"]
    if name != "postgres":  # its entry point makes its data folder its own, then runs as postgres
        assert SERVICES[name]["cap_drop"] == ["ALL"]


def test_data_that_must_last_is_on_a_named_volume() -> None:
    (mount,) = SERVICES["postgres"]["volumes"]
    assert mount.split(":")[0] in compose()["volumes"]


def test_the_gateway_has_a_raylet_beside_it_and_the_time_to_drain() -> None:
    *_, command = SERVICES["gateway"]["command"]
    assert command.startswith("ray start --address=ray:6379 --num-cpus=0 && exec ")
    assert int(SERVICES["gateway"]["stop_grace_period"].removesuffix("s")) > DRAIN_TIMEOUT_S + 10
