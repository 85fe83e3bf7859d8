"""The name of one HTTP request, in its answer's `x-request-id` and in the logs."""

from typing import cast

from litestar.types import Scope

from infra.ids import uuid7


def request_id_of(scope: Scope) -> str:
    """The request's id, made on first use."""
    return cast(str, scope["state"].setdefault("request_id", f"req_{uuid7().hex}"))
