"""`--expires`: the last day of a key."""

from datetime import UTC, datetime, timedelta

import click

from infra.errors import InvalidValueError

expires_option = click.option(
    "--expires", help="Last day it works (YYYY-MM-DD, UTC), or a moment such as 2027-01-31T12:00Z."
)
_END_OF_DAY = timedelta(days=1)


def parse_expiry(text: str | None) -> datetime | None:
    """A day counts to its end; a moment without a time zone is UTC; none given is never.

    Raises:
        InvalidValueError: neither a day nor a moment.
    """
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidValueError(
            "--expires takes a day (2027-01-31) or a moment (2027-01-31T12:00Z)."
        ) from None
    if len(text) == len("YYYY-MM-DD"):
        at += _END_OF_DAY
    return at if at.tzinfo else at.replace(tzinfo=UTC)
