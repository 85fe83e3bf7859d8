"""Every error a caller may see has its row in the one table that turns codes into HTTP."""

import importlib
import pkgutil
from collections.abc import Iterator

import pytest

from gateway.errors import STATUS_AND_TYPE
from infra.errors import DomainError

ROOMS = ("billing", "gateway", "infra", "openapi", "serving", "tenants")


def all_errors(root: type[DomainError] = DomainError) -> Iterator[type[DomainError]]:
    yield root
    for error in root.__subclasses__():
        yield from all_errors(error)


@pytest.fixture(scope="module", autouse=True)
def import_every_module() -> None:
    for room in ROOMS:
        for module in pkgutil.walk_packages(importlib.import_module(room).__path__, f"{room}."):
            # These import Ray, which wants its environment prepared.
            if module.name not in ("serving.deployments", "serving.declared"):
                importlib.import_module(module.name)


def test_every_code_has_a_status_and_every_row_a_code() -> None:
    codes = {error.code for error in all_errors() if not error.__module__.startswith("tests")}
    assert codes - STATUS_AND_TYPE.keys() == set()
    # A refusal of Litestar's own is the row without a class.
    assert STATUS_AND_TYPE.keys() - codes == {"method_not_allowed"}


def test_every_row_is_an_error_status_and_an_error_type() -> None:
    for status, kind in STATUS_AND_TYPE.values():
        assert 400 <= status < 600
        assert kind.endswith("error") or (status, kind) == (402, "insufficient_quota")
