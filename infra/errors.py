"""The root of every error that a caller may see."""

from typing import ClassVar


class DomainError(Exception):
    """A refusal with a stable code; `gateway.errors` turns codes into HTTP answers, in one table.

    Messages are read by customers and kept in logs: they never hold a key, a password, a text or audio.

    Args:
        message: one sentence that says what is wrong and what to do.
        param: the request's field that is at fault, where there is one.
    """

    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message, param)
        self.message = message
        self.param = param

    def __str__(self) -> str:
        return self.message


class NotFoundError(DomainError):
    """The thing is not there, or belongs to another tenant: one answer for both."""

    code = "not_found"


class InvalidValueError(DomainError):
    """A value of the right type that cannot be accepted."""

    code = "invalid_value"


class RetryLaterError(DomainError):
    """Refused now; trying again after `retry_after_s` helps."""

    def __init__(self, message: str, param: str | None = None, retry_after_s: float = 1) -> None:
        super().__init__(message, param)
        self.retry_after_s = retry_after_s


class UnavailableError(RetryLaterError):
    """Something underneath is away for now."""

    code = "service_unavailable"


class StartupError(Exception):
    """A part could not start. The message says which, why, and what to do, in one line."""
