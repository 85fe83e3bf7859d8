"""`aiaas staff`: who works for the vendor."""

from datetime import UTC, datetime

import click
import msgspec

from gateway.commands.expiry import expires_option, parse_expiry
from gateway.commands.running import as_json, echo_json, moment, table, with_pool
from infra.database import Pool
from tenants.records import ROLES, IssuedStaffKey, Role, StaffMember
from tenants.staff import add_member, list_members, revoke_member, rotate_member_key


@click.group()
def staff() -> None:
    """Your own people: finance and operators, each with a key for the admin API.

    With their key in AIAAS_STAFF_KEY, commands record that member as who acted; without one, the account of
    the operating system that runs them.
    """


@staff.command("add")
@click.argument("name")
@click.option("--email", required=True, help="Names them for good: one e-mail is one member.")
@click.option(
    "--role",
    required=True,
    type=click.Choice(ROLES),
    help="finance: invoices and prices. operator: that, and all else.",
)
@expires_option
@as_json
def staff_add(name: str, email: str, role: Role, expires: str | None, json: bool) -> None:
    """Take NAME on, or back. Their key is shown once, here, and cannot be shown again."""
    expires_at = parse_expiry(expires)
    _show_issued(with_pool(lambda pool: add_member(pool, name, email, role, expires_at)), json)


@staff.command("list")
@as_json
def staff_list(json: bool) -> None:
    """List all members, oldest first, those who left too."""
    found = with_pool(_all_members)
    if json:
        echo_json({"staff": [_fields(each) for each in found]})
        return
    rows = [
        [each.staff_id, each.name, each.email, each.role, _state(each), moment(each.key_last_used_at)]
        for each in found
    ]
    click.echo(table(["MEMBER", "NAME", "E-MAIL", "ROLE", "STATE", "LAST USED"], rows))


@staff.command("rotate-key")
@click.argument("staff_id")
@as_json
def staff_rotate_key(staff_id: str, json: bool) -> None:
    """Give STAFF_ID a new key. The old one is refused at once."""
    _show_issued(with_pool(lambda pool: rotate_member_key(pool, staff_id)), json)


@staff.command("revoke")
@click.argument("staff_id")
@as_json
def staff_revoke(staff_id: str, json: bool) -> None:
    """Refuse STAFF_ID from now on, everywhere at once. `add` with the same e-mail brings them back."""
    revoked = with_pool(lambda pool: revoke_member(pool, staff_id))
    if json:
        echo_json(_fields(revoked))
    else:
        click.echo(f"{revoked.staff_id} ({revoked.name}) is revoked.")


async def _all_members(pool: Pool) -> list[StaffMember]:
    found: list[StaffMember] = []
    while page := await list_members(pool, after=found[-1].staff_id if found else None):
        found += page
    return found


def _show_issued(issued: IssuedStaffKey, json: bool) -> None:
    if json:
        echo_json({**_fields(issued.member), "key": issued.text.reveal()})
    else:
        click.echo(
            f"{issued.member.staff_id}\n{issued.text.reveal()}\n"
            "Keep the key now: it is not stored and cannot be shown again."
        )


def _fields(shown: StaffMember) -> dict[str, object]:
    return {**msgspec.structs.asdict(shown), "state": _state(shown)}


def _state(shown: StaffMember) -> str:
    if shown.revoked_at:
        return "revoked"
    return "expired" if shown.key_expires_at and shown.key_expires_at <= datetime.now(UTC) else "active"
