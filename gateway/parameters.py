"""Query parameters that several endpoints take, and structs of ours as those that are answered."""

from typing import Annotated, TypeVar

import msgspec
from litestar.params import Parameter

from openapi.endpoint import QueryParameter

T = TypeVar("T")

PERIOD_PATTERN = r"^\d{4}-(0[1-9]|1[0-2])$"
RequiredPeriod = Annotated[str, Parameter(pattern=PERIOD_PATTERN)]
Period = Annotated[str | None, Parameter(pattern=PERIOD_PATTERN)]


def period_parameter(otherwise: str) -> QueryParameter:
    """The optional query parameter `period`, and what is taken where it is not there."""
    schema = {"type": "string", "pattern": PERIOD_PATTERN}
    return QueryParameter("period", f"A month, `YYYY-MM`; {otherwise} by default.", schema)


def limit_parameter(default: int, most: int) -> QueryParameter:
    """How many of a list a page holds."""
    schema = {"type": "integer", "minimum": 1, "maximum": most, "default": default}
    return QueryParameter("limit", "How many at most.", schema)


def as_body(value: object, body: type[T]) -> T:
    """A struct of ours as the struct that is answered."""
    return msgspec.convert(value, body, from_attributes=True)
