"""Who bills and who is billed: changed with a trail, checked, and never under numbers that were given."""

import json
from datetime import UTC, datetime

import psycopg
import pytest
from click.testing import CliRunner

from billing.audit import audit_trail
from billing.meters import TTS_CHARACTERS
from billing.parties import (
    change_profile,
    list_issuers,
    parse_percent,
    set_issuer,
    show_issuer,
    show_profile,
)
from billing.proofs import verify
from gateway.cli import main
from infra.database import Pool
from infra.errors import InvalidValueError, NotFoundError
from tests.billing_world import add_account, add_tenant
from tests.invoice_world import MAKER, NOVEMBER, OCTOBER, close, issue_all, run, use

AFTER_OCTOBER = datetime(2025, 11, 1, 12, tzinfo=UTC)
AFTER_NOVEMBER = datetime(2025, 12, 1, 12, tzinfo=UTC)
DOLLARS = [(TTS_CHARACTERS, 1_000_000)]  # 15 USD


async def test_a_tenant_has_a_profile_from_the_first_and_a_change_is_on_record(pool: Pool) -> None:
    tenant_id = await add_account(pool)
    before = await show_profile(pool, tenant_id)
    assert (before.name, before.issuer_id, before.language, before.tax_ppm) == ("Test", "default", "en", 0)
    changes = {"name": "宏達客服", "address": "台北市\n信義區", "tax_name": "VAT", "tax_ppm": 50_000}
    after = await change_profile(pool, tenant_id, changes, MAKER)
    assert after == await show_profile(pool, tenant_id)
    assert (after.name, after.tax_ppm, after.email) == ("宏達客服", 50_000, "")
    await change_profile(pool, tenant_id, {"name": "宏達客服"}, MAKER)
    (event,) = await audit_trail(pool, tenant_id)
    assert (event.actor, event.action, event.refused) == (MAKER, "billing_profile", False)
    assert event.detail["changed"] == {
        "name": ["Test", "宏達客服"],
        "address": ["", "台北市\n信義區"],
        "tax_name": ["", "VAT"],
        "tax_ppm": [0, 50_000],
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"name": " "},
        {"name": "x" * 201},
        {"name": "a\x00b"},
        {"address": "x" * 501},
        {"email": "nobody"},
        {"language": "fr"},
        {"tax_ppm": 1_000_001, "tax_name": "VAT"},
        {"tax_ppm": 50_000},
        {"issuer_id": "nobody"},
    ],
)
async def test_a_bad_profile_is_refused_and_changes_nothing(pool: Pool, changes: dict[str, str]) -> None:
    tenant_id = await add_account(pool)
    before = await show_profile(pool, tenant_id)
    with pytest.raises(InvalidValueError) as refusal:
        await change_profile(pool, tenant_id, changes, MAKER)
    assert refusal.value.param in {*changes, "tax_name"}
    assert await show_profile(pool, tenant_id) == before
    (event,) = await audit_trail(pool, tenant_id)
    assert (event.refused, event.detail) == (True, {"code": "invalid_value"})


async def test_who_is_not_there_has_none(pool: Pool) -> None:
    for tenant_id in ("ten_none", await add_tenant(pool)):
        with pytest.raises(NotFoundError):
            await show_profile(pool, tenant_id)
        with pytest.raises(NotFoundError):
            await change_profile(pool, tenant_id, {"name": "A"}, MAKER)
    with pytest.raises(NotFoundError):
        await show_issuer(pool, "nobody")


async def test_issuers_number_apart_and_keep_their_prefix_once_a_number_was_given(
    database_url: str, pool: Pool
) -> None:
    ours, theirs = [await add_account(pool, now=OCTOBER) for _ in range(2)]
    await set_issuer(pool, "taiwan", {"name": "台灣分公司", "number_prefix": "XX-"}, MAKER)
    await set_issuer(pool, "taiwan", {"number_prefix": "TW-", "payment_days": 10}, MAKER)
    await change_profile(
        pool, theirs, {"issuer_id": "taiwan", "tax_ppm": 50_000, "tax_name": "營業稅"}, MAKER
    )
    for tenant_id in (ours, theirs):
        await use(database_url, tenant_id, DOLLARS)
        await use(database_url, tenant_id, DOLLARS, NOVEMBER)
    await close(pool, AFTER_OCTOBER)
    issued = {one.tenant_id: one for one in await issue_all(pool)}
    assert {one.number for one in issued.values()} == {"AG-000001", "TW-000001"}
    assert (issued[theirs].issuer.name, issued[theirs].total) == ("台灣分公司", "15.75 USD")

    with pytest.raises(InvalidValueError, match="the prefix stays"):
        await set_issuer(pool, "taiwan", {"number_prefix": "TW2-"}, MAKER)
    assert (await audit_trail(pool, "taiwan"))[0].refused
    with pytest.raises(psycopg.errors.IntegrityError):
        async with pool.connection() as connection:
            await connection.execute("UPDATE billing.issuer SET number_prefix = 'TW2-'")
    await set_issuer(pool, "taiwan", {"address": "New"}, MAKER)
    assert [(one.issuer_id, one.numbers_given) for one in await list_issuers(pool)] == [
        ("default", 1),
        ("taiwan", 1),
    ]
    await close(pool, AFTER_NOVEMBER)
    november = {one.tenant_id: one for one in await run(pool, "2025-11")}
    assert november[theirs].issuer.address == "New"
    assert all([(await verify(pool, one.invoice_id)).ok for one in issued.values()])


@pytest.mark.parametrize(
    ("issuer_id", "changes"),
    [
        ("Taiwan!", {"name": "A", "number_prefix": "A-"}),
        ("new", {"name": "A"}),
        ("new", {"number_prefix": "A-"}),
        ("new", {"name": "A", "number_prefix": "=A"}),
        ("new", {"name": "A", "number_prefix": "x" * 21}),
        ("default", {"payment_days": 366}),
        ("default", {"payment_days": -1}),
    ],
)
async def test_a_bad_issuer_is_refused(pool: Pool, issuer_id: str, changes: dict[str, str]) -> None:
    before = await list_issuers(pool)
    with pytest.raises(InvalidValueError):
        await set_issuer(pool, issuer_id, changes, MAKER)
    assert await list_issuers(pool) == before


@pytest.mark.parametrize(
    ("text", "ppm"), [("0", 0), ("5", 50_000), ("8.875", 88_750), ("100", 1_000_000), ("0.0001", 1)]
)
def test_a_rate_in_percent_is_exact(text: str, ppm: int) -> None:
    assert parse_percent(text) == ppm


@pytest.mark.parametrize("text", ["", "-1", "5%", "100.0001", "0.00001", "five"])
def test_a_rate_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError):
        parse_percent(text)


def test_the_commands(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)

    def command(*arguments: str) -> dict[str, object]:
        return json.loads(CliRunner().invoke(main, [*arguments, "--json"], catch_exceptions=False).stdout)

    with psycopg.connect(database_url) as connection:
        connection.execute("INSERT INTO billing.price_version VALUES ('tw', 'standard', 'TWD', '-infinity')")
        connection.execute("INSERT INTO billing.meter_price VALUES ('tw', 'intent.calls', 1)")
        connection.execute("INSERT INTO billing.price_tier VALUES ('tw', 'intent.calls', 1, NULL, 12000000)")
    made = command("tenant", "create", "Acme", "--currency", "TWD")
    assert made["currency"] == "TWD"
    tenant_id = str(made["tenant_id"])
    billed = command("tenant", "set-billing", tenant_id, "--tax-name", "VAT", "--tax-rate", "5")
    assert (billed["tax_name"], billed["tax_ppm"], billed["name"]) == ("VAT", 50_000, "Acme")
    assert command("tenant", "set-billing", tenant_id) == billed
    issuer = command("issuer", "set", "tw", "--name", "TW", "--number-prefix", "TW-", "--payment-days", "14")
    assert issuer in command("issuer", "list")["issuers"]  # type: ignore[operator]
    for wrong in (
        ["tenant", "create", "Beta", "--currency", "JPY"],
        ["tenant", "set-billing", tenant_id, "--tax-rate", "101"],
        ["tenant", "set-billing", "ten_none", "--name", "A"],
        ["issuer", "set", "tw"],
        ["issuer", "set", "tw", "--number-prefix", "="],
    ):
        refused = CliRunner().invoke(main, wrong)
        assert refused.exit_code == 1
        assert len(refused.stderr.splitlines()) == 1, refused.stderr
