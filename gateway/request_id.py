"""The name of one HTTP request, in its answer's `x-request-id` and in the logs."""

import random

from litestar.types import Scope


def request_id_of(scope: Scope) -> str:
    """The request's id, made on first use. It names a request and opens nothing: it need not be a secret."""
    state = scope["state"]
    if "request_id" not in state:
        state["request_id"] = f"req_{random.getrandbits(128):032x}"
    return state["request_id"]
