"""`aiaas tenant` and `aiaas key`."""

from datetime import UTC, datetime, timedelta
from typing import Any

import click

from billing.accounts import account as read_account
from billing.caps import set_caps
from billing.credit import credit
from billing.plan_changes import PlanChange
from gateway.commands.acting import acting
from gateway.commands.cap_options import (
    ShownCap,
    cap_options,
    clearable_cap_options,
    given_caps,
    read_shown_caps,
)
from gateway.commands.credit import describe_credit
from gateway.commands.expiry import expires_option, parse_expiry
from gateway.commands.plans import shown_limits
from gateway.commands.running import as_json, echo_json, moment, table, with_pool
from gateway.customers import (
    DEFAULT_CURRENCY,
    DEFAULT_PLAN,
    DEFAULT_TIME_ZONE,
    change_customers_plan,
    create_customer,
)
from infra.database import Pool
from infra.errors import InvalidValueError
from tenants.api_keys import (
    create_key,
    list_keys,
    operator_list_keys,
    operator_tenant_of_key,
    revoke_key,
    rotate_key,
)
from tenants.placement import operator_set_placement
from tenants.plans import show_tenants_plan
from tenants.records import PLACEMENTS, PRODUCTS, ApiKey, IssuedKey, Placement, Tenant
from tenants.tenants import operator_list_tenants, show_tenant


@click.group()
def tenant() -> None:
    """Your customers."""


@tenant.command("create")
@click.argument("name")
@click.option("--plan", default=DEFAULT_PLAN, show_default=True, help="Decides their limits and prices.")
@click.option(
    "--time-zone",
    default=DEFAULT_TIME_ZONE,
    show_default=True,
    help="Where their months begin and end, such as Asia/Taipei.",
)
@click.option(
    "--currency",
    default=DEFAULT_CURRENCY,
    show_default=True,
    help="What they are billed in, such as TWD; the plan must have prices in it.",
)
@cap_options
@as_json
def tenant_create(
    name: str,
    plan: str,
    time_zone: str,
    currency: str,
    cap: str | None,
    cap_units: tuple[str, ...],
    json: bool,
) -> None:
    """Make a tenant called NAME."""
    caps = given_caps(cap, cap_units)
    made = with_pool(
        lambda pool: create_customer(pool, name, plan=plan, currency=currency, time_zone=time_zone, caps=caps)
    )
    if json:
        echo_json({**_tenant_fields(made), "time_zone": time_zone, "currency": currency})
    else:
        click.echo(f"{made.tenant_id}\nNext: aiaas key create --tenant {made.tenant_id}")


@tenant.command("list")
@as_json
def tenant_list(json: bool) -> None:
    """List all tenants, oldest first."""
    found = with_pool(_all_tenants)
    if json:
        echo_json({"tenants": [_tenant_fields(each) for each in found]})
    else:
        rows = [[each.tenant_id, each.name, each.plan, moment(each.created_at)] for each in found]
        click.echo(table(["TENANT", "NAME", "PLAN", "CREATED"], rows))


@tenant.command("show")
@click.argument("tenant_id")
@as_json
def tenant_show(tenant_id: str, json: bool) -> None:
    """Show one tenant: its plan with its limits, placement, currency, time zone, keys and caps."""

    async def read(pool: Pool) -> dict[str, Any]:
        found = await show_tenant(pool, tenant_id)
        account = await read_account(pool, tenant_id)
        keys = await list_keys(pool, tenant_id)
        return {
            **_tenant_fields(found),
            "currency": account.currency,
            "time_zone": account.time_zone,
            "keys": len(keys),
            "limits": (await show_tenants_plan(pool, tenant_id)).limits,
            "credit": await credit(pool, tenant_id),
            "caps": await read_shown_caps(pool, tenant_id, account.currency),
        }

    shown = with_pool(read)
    if json:
        echo_json(shown)
    else:
        caps, prepaid, limits = shown.pop("caps"), shown.pop("credit"), shown_limits(shown.pop("limits"))
        if prepaid is not None:
            shown["credit"] = describe_credit(prepaid, shown["currency"])
        click.echo("\n".join(f"{name:<28}{value}" for name, value in {**shown, **limits}.items()))
        click.echo("\n".join(f"{'cap':<28}{one.describe()}" for one in caps) or f"{'cap':<28}none")


@tenant.command("set-cap")
@click.argument("tenant_id")
@clearable_cap_options
@as_json
def tenant_set_cap(tenant_id: str, cap: str | None, cap_units: tuple[str, ...], json: bool) -> None:
    """Set, raise, lower or take away TENANT_ID's monthly caps; in effect at once, while calls run."""
    changes = given_caps(cap, cap_units)
    if not changes:
        raise InvalidValueError("Say which cap: --cap AMOUNT|none, or --cap-units METER=N|none.")

    async def change(pool: Pool) -> list[ShownCap]:
        await set_caps(pool, tenant_id, changes)
        account = await read_account(pool, tenant_id)
        return await read_shown_caps(pool, tenant_id, account.currency)

    caps = with_pool(change)
    if json:
        echo_json({"tenant_id": tenant_id, "caps": caps})
    else:
        click.echo("\n".join(one.describe() for one in caps) or "No caps.")


@tenant.command("set-plan")
@click.argument("tenant_id")
@click.argument("plan")
@click.option("--at-once", is_flag=True, help="Its prices too: from now on, in the month that runs.")
@as_json
def tenant_set_plan(tenant_id: str, plan: str, at_once: bool, json: bool) -> None:
    """Put TENANT_ID on PLAN: its limits within a second, its prices from its next month on.

    At once, the month that runs goes on at the plan's prices: tiers go on where they stood, a minimum
    commitment counts for its share of the month's time, and the invoice says from when.
    """

    async def change(pool: Pool) -> tuple[Tenant, PlanChange]:
        return await change_customers_plan(pool, tenant_id, plan, await acting(pool), at_once=at_once)

    changed, made = with_pool(change)
    if json:
        echo_json({**_tenant_fields(changed), "change": made})
    else:
        click.echo(f"{tenant_id} is on {plan}, at its prices from {moment(made.starts_at)} UTC on.")


@tenant.command("set-placement")
@click.argument("tenant_id")
@click.argument("placement", type=click.Choice(PLACEMENTS), metavar="local_only|prefer_local|remote")
@as_json
def tenant_set_placement(tenant_id: str, placement: Placement, json: bool) -> None:
    """Say where TENANT_ID's calls may be answered; in effect everywhere within a second.

    local_only, the default: what they send never leaves. prefer_local: calls that the engines here refuse,
    since they are busy or away, go to the endpoint of REMOTE_BASE_URL. remote: all calls go there.
    """
    changed = with_pool(lambda pool: operator_set_placement(pool, tenant_id, placement))
    if json:
        echo_json(_tenant_fields(changed))
    else:
        click.echo(f"Calls of {tenant_id} are placed {placement}.")


@click.group()
def key() -> None:
    """API keys."""


@key.command("create")
@click.option("--tenant", "tenant_id", required=True, help="Whose key it is.")
@click.option("--name", default="", help="What it is for.")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(PRODUCTS), help="[default: all products]")
@expires_option
@click.option(
    "--from", "networks", multiple=True, help="Network it may be used from, such as 203.0.113.0/24."
)
@click.option(
    "--test", is_flag=True, help="Mark it as a test key (aiaas_test_...). Its calls are charged too."
)
@cap_options
@as_json
def key_create(
    tenant_id: str,
    name: str,
    scopes: tuple[str, ...],
    expires: str | None,
    networks: tuple[str, ...],
    test: bool,
    cap: str | None,
    cap_units: tuple[str, ...],
    json: bool,
) -> None:
    """Make a key. It is shown once, here, and cannot be shown again."""
    expires_at = parse_expiry(expires)
    caps = given_caps(cap, cap_units)

    async def create(pool: Pool) -> IssuedKey:
        issued = await create_key(
            pool,
            tenant_id,
            name=name,
            mode="test" if test else "live",
            scopes=scopes or PRODUCTS,
            expires_at=expires_at,
            allowed_networks=networks,
        )
        if caps:  # before the key is shown: it cannot be used without them
            await set_caps(pool, tenant_id, caps, issued.api_key.key_id)
        return issued

    _show_issued(with_pool(create), json)


@key.command("list")
@click.option("--tenant", "tenant_id", help="Only this tenant's. [default: everyone's]")
@as_json
def key_list(tenant_id: str | None, json: bool) -> None:
    """List keys, oldest first. Their secrets are not kept and not shown."""
    found = with_pool(lambda pool: _all_keys(pool, tenant_id))
    if json:
        echo_json({"keys": [_key_fields(each) for each in found]})
        return
    rows = [
        [
            each.key_id,
            each.tenant_id,
            each.name,
            ",".join(each.scopes),
            _state(each),
            moment(each.last_used_at),
        ]
        for each in found
    ]
    click.echo(table(["KEY", "TENANT", "NAME", "SCOPES", "STATE", "LAST USED"], rows))


@key.command("rotate")
@click.argument("key_id")
@click.option("--grace-hours", default=24.0, show_default=True, help="How long the old key works on.")
@as_json
def key_rotate(key_id: str, grace_hours: float, json: bool) -> None:
    """Put a new key in KEY_ID's place. The old one works on for the grace time."""

    async def rotate(pool: Pool) -> IssuedKey:
        owner = await operator_tenant_of_key(pool, key_id)
        return await rotate_key(pool, owner, key_id, timedelta(hours=grace_hours))

    _show_issued(with_pool(rotate), json)


@key.command("revoke")
@click.argument("key_id")
@as_json
def key_revoke(key_id: str, json: bool) -> None:
    """Refuse KEY_ID from now on, for good; in effect everywhere within a second."""

    async def revoke(pool: Pool) -> ApiKey:
        return await revoke_key(pool, await operator_tenant_of_key(pool, key_id), key_id)

    revoked = with_pool(revoke)
    if json:
        echo_json(_key_fields(revoked))
    else:
        click.echo(f"{key_id} is revoked.")


async def _all_tenants(pool: Pool) -> list[Tenant]:
    found: list[Tenant] = []
    while page := await operator_list_tenants(pool, after=found[-1].tenant_id if found else None):
        found += page
    return found


async def _all_keys(pool: Pool, tenant_id: str | None) -> list[ApiKey]:
    if tenant_id:
        await show_tenant(pool, tenant_id)
    found: list[ApiKey] = []
    while True:
        after = found[-1].key_id if found else None
        page = await (list_keys(pool, tenant_id, after) if tenant_id else operator_list_keys(pool, after))
        if not page:
            return found
        found += page


def _show_issued(issued: IssuedKey, json: bool) -> None:
    if json:
        echo_json({**_key_fields(issued.api_key), "key": issued.text.reveal()})
    else:
        click.echo(f"{issued.text.reveal()}\nKeep it now: it is not stored and cannot be shown again.")


def _tenant_fields(shown: Tenant) -> dict[str, object]:
    return {
        "tenant_id": shown.tenant_id,
        "name": shown.name,
        "created_at": shown.created_at,
        "plan": shown.plan,
        "placement": shown.placement,
    }


def _key_fields(shown: ApiKey) -> dict[str, object]:
    return {
        "key_id": shown.key_id,
        "tenant_id": shown.tenant_id,
        "name": shown.name,
        "mode": shown.mode,
        "scopes": shown.scopes,
        "allowed_networks": shown.allowed_networks,
        "state": _state(shown),
        "created_at": shown.created_at,
        "expires_at": shown.expires_at,
        "revoked_at": shown.revoked_at,
        "last_used_at": shown.last_used_at,
        "replaced_by": shown.replaced_by,
    }


def _state(shown: ApiKey) -> str:
    if shown.revoked_at:
        return "revoked"
    if shown.expires_at and shown.expires_at <= datetime.now(UTC):
        return "expired"
    return "replaced" if shown.replaced_by else "active"
