"""A request's headers as ASGI gives them: names in small letters, read once a request."""

from litestar.types import Scope


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """The headers by name; of several of one name, the last."""
    state = scope["state"]
    if "headers" not in state:
        state["headers"] = dict(scope["headers"])
    return state["headers"]
