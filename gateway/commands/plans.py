"""`aiaas plan`: what tenants may ask for at once."""

from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

from gateway.commands.running import as_json, echo_json, table, with_pool
from infra.errors import InvalidValueError
from tenants.plans import operator_list_plans, operator_set_plan_limits
from tenants.records import PlanLimits

Command = TypeVar("Command", bound=Callable[..., Any])
_DEFAULT = "default"


@click.group()
def plan() -> None:
    """Plans: how many requests a minute, how many calls at the same time."""


@plan.command("list")
@as_json
def plan_list(json: bool) -> None:
    """List all plans with their limits."""
    found = with_pool(operator_list_plans)
    if json:
        echo_json({"plans": found})
    else:
        headings = ["PLAN", "REQUESTS/MIN", "REQUESTS/MIN/KEY", "CONCURRENT CALLS"]
        click.echo(table(headings, [[each.plan, *shown_limits(each.limits).values()] for each in found]))


def _limit_option(name: str, of: str) -> Callable[[Command], Command]:
    return click.option(name, metavar=f"N|{_DEFAULT}", help=f"{of}, over all workers.")


@plan.command("set")
@click.argument("name")
@_limit_option("--requests-per-minute", "Requests a minute of a tenant")
@_limit_option("--requests-per-minute-per-key", "Requests a minute of each of its keys")
@_limit_option("--max-concurrent-calls", "Calls of a tenant in hand at the same time")
@as_json
def plan_set(
    name: str,
    requests_per_minute: str | None,
    requests_per_minute_per_key: str | None,
    max_concurrent_calls: str | None,
    json: bool,
) -> None:
    """Set limits of the plan NAME, or make it; in effect everywhere within a second.

    What is not named stays. `default` is what the gateway's settings say (REQUESTS_PER_MINUTE,
    MAX_CONCURRENT_CALLS). Prices are another matter: a tenant can be put on a plan that has both.
    """
    given = {
        "requests_per_minute": requests_per_minute,
        "requests_per_minute_per_key": requests_per_minute_per_key,
        "max_concurrent_calls": max_concurrent_calls,
    }
    changes = {limit: _parse_limit(text) for limit, text in given.items() if text is not None}
    if not changes:
        raise InvalidValueError("Say which limit, such as --requests-per-minute 600. See --help.")
    changed = with_pool(lambda pool: operator_set_plan_limits(pool, name, changes))
    if json:
        echo_json(changed)
    else:
        click.echo("\n".join(f"{limit:<28}{value}" for limit, value in shown_limits(changed.limits).items()))


def shown_limits(limits: PlanLimits) -> dict[str, str]:
    """Limits by name, for people."""
    return {
        limit: _DEFAULT if value is None else str(value)
        for limit, value in msgspec.structs.asdict(limits).items()
    }


def _parse_limit(text: str) -> int | None:
    if text == _DEFAULT:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 10:
        raise InvalidValueError(f"A limit is a whole number from 1, or `{_DEFAULT}`.")
    return int(text)
