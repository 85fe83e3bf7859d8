"""The monthly run: carried on after any crash, by anybody, to one and the same end."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from billing import drafts, runs
from billing.audit import audit_trail
from billing.drafts import run_drafts, work_on_due_runs, work_on_run
from billing.invoices import Invoice, list_invoices, show_invoice
from billing.meters import INTENT_CALLS, TTS_CHARACTERS
from billing.store import runs as store
from billing.store.runs import InvoiceRun
from gateway.cli import main
from infra.database import Pool
from infra.errors import InvalidValueError, NotFoundError
from tests.billing_world import add_account
from tests.invoice_world import MAKER, OCTOBER, close, use

AFTER_OCTOBER = datetime(2025, 11, 1, 12, tzinfo=UTC)
TENANTS = 5
NOW = datetime.now(UTC)


class Crash(Exception):
    """A process that died here."""


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafts, "_TENANTS_PER_TRANSACTION", 2)
    monkeypatch.setattr("billing.sealing._MONTHS_PER_TRANSACTION", 2)


@pytest.fixture
async def tenants(database_url: str, pool: Pool) -> list[str]:
    """Five tenants with a closed October."""
    found = sorted([await add_account(pool, now=OCTOBER) for _ in range(TENANTS)])
    for number, tenant_id in enumerate(found, 1):
        await use(database_url, tenant_id, [(TTS_CHARACTERS, 1_000_000 * number), (INTENT_CALLS, 1)])
    await close(pool, AFTER_OCTOBER)
    return found


async def invoices(pool: Pool) -> list[Invoice]:
    return [await show_invoice(pool, one.invoice_id) for one in await list_invoices(pool)]


def crash_at(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, *, nth: int, before: bool) -> None:
    """Die the `nth` time that something is done, before it or after it."""
    original: Callable[..., Any] = getattr(place, name)
    count = 0

    async def dying(*given: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        if count == nth and before:
            raise Crash
        done = await original(*given, **named)
        if count == nth:
            raise Crash
        return done

    monkeypatch.setattr(place, name, dying)


# Each step of a run; those of a page are in its transaction but for the last, which is after its commit.
STEPS = [
    *((runs, "begin_sealing", 1, before) for before in (True, False)),
    *(("billing.store.seals", "seal_months", nth, before) for nth in (1, 2, 3) for before in (True, False)),
    *((runs, "note_sealed", nth, before) for nth in (1, 3) for before in (True, False)),
    *((runs, "begin_drafting", 1, before) for before in (True, False)),
    *((drafts, "_draft", nth, before) for nth in (1, 2, 3) for before in (True, False)),
    *((store, "advance", nth, False) for nth in (1, 2, 3)),
    *((drafts, "_work_on_page", nth, before) for nth in (1, 2, 3) for before in (True, False)),
]


@pytest.mark.parametrize(("place", "name", "nth", "before"), STEPS)
async def test_a_run_that_dies_anywhere_is_carried_on_to_the_same_end(
    pool: Pool, tenants: list[str], place: Any, name: str, nth: int, before: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if isinstance(place, str):
            from billing.store import seals as place
        crash_at(patch, place, name, nth=nth, before=before)
        run = await runs.request_run(pool, "2025-10", MAKER, NOW)
        with pytest.raises(Crash):
            await work_on_run(pool, run.run_id)
    died = await runs.show_run(pool, run.run_id)
    if died.finished_at is None:
        assert (died.failures, died.last_error) == (1, "Crash")
    done = await work_on_run(pool, run.run_id)
    assert (done.state, done.tenants_done, done.tenants_total, done.months_open) == ("done", 5, 5, 0)
    made = await invoices(pool)
    assert [(one.tenant_id, one.status, one.prepared_by) for one in made] == [
        (tenant_id, "in_review", (MAKER,)) for tenant_id in tenants
    ]
    for one in made:
        assert [event.action for event in await audit_trail(pool, one.invoice_id)] == ["made"]
    await run_drafts(pool, "2025-10", "os:somebody")
    assert [one.content_sha256 for one in await invoices(pool)] == [one.content_sha256 for one in made]
    assert [one.prepared_by for one in await invoices(pool)] == [(MAKER,)] * 5, "nothing changed"


async def test_what_is_done_is_not_done_again(
    pool: Pool, tenants: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await runs.request_run(pool, "2025-10", MAKER, NOW)
    seen: list[InvoiceRun] = []
    with pytest.MonkeyPatch.context() as patch:
        crash_at(patch, drafts, "_draft", nth=3, before=True)
        with pytest.raises(Crash):
            await work_on_run(pool, run.run_id, seen.append)
    first = await invoices(pool)
    assert [(one.state, one.tenants_done) for one in seen] == [
        ("sealing", 2),
        ("sealing", 4),
        ("sealing", 5),
        ("drafting", 2),
        ("drafting", 4),
    ]
    await work_on_run(pool, run.run_id)
    assert (await invoices(pool))[:4] == first, "not even when it was drafted"


async def test_many_work_on_one_run_and_each_tenant_has_one_invoice(pool: Pool, tenants: list[str]) -> None:
    run = await runs.request_run(pool, "2025-10", MAKER, NOW)
    done = await asyncio.gather(*(work_on_run(pool, run.run_id) for _ in range(5)))
    assert [(one.state, one.tenants_done) for one in done] == [("done", 5)] * 5
    made = await invoices(pool)
    assert [one.tenant_id for one in made] == tenants
    for one in made:
        assert [event.action for event in await audit_trail(pool, one.invoice_id)] == ["made"]


async def test_a_later_run_takes_the_place_of_one_at_hand_and_sees_what_changed(
    pool: Pool, tenants: list[str]
) -> None:
    first = await runs.request_run(pool, "2025-10", MAKER, NOW)
    with pytest.MonkeyPatch.context() as patch:
        crash_at(patch, drafts, "_work_on_page", nth=2, before=True)
        with pytest.raises(Crash):
            await work_on_run(pool, first.run_id)
    async with pool.connection() as connection:
        await connection.execute("UPDATE billing.profile SET tax_ppm = 50000")
    second = await runs.request_run(pool, "2025-10", "os:second", NOW)
    assert (await work_on_run(pool, first.run_id)).replaced_by == second.run_id
    await work_on_due_runs(pool)
    assert (await runs.show_run(pool, second.run_id)).state == "done"
    made = await invoices(pool)
    assert {one.tax_ppm for one in made} == {50000}
    assert [one.prepared_by for one in made] == [("os:second", MAKER)] * 2 + [("os:second",)] * 3


async def test_runs_asked_for_at_once_are_one_at_a_time_and_all_see_the_end(
    pool: Pool, tenants: list[str]
) -> None:
    listed = await asyncio.gather(*(run_drafts(pool, "2025-10", f"os:{number}") for number in range(4)))
    assert all(one == listed[0] for one in listed)
    assert [one.tenant_id for one in listed[0]] == tenants
    async with pool.connection() as connection:
        cursor = await connection.execute("SELECT state, count(*) FROM billing.invoice_run GROUP BY 1")
        states = dict(await cursor.fetchall())
    assert sum(states.values()) == 4
    assert set(states) <= {"done", "replaced"}


async def test_a_run_that_breaks_off_too_often_is_given_up_and_says_why(
    pool: Pool, tenants: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def break_off(*_: Any) -> None:
        raise InvalidValueError("This price is no price.")

    monkeypatch.setattr(drafts, "_draft", break_off)
    run = await runs.request_run(pool, "2025-10", MAKER, NOW)
    with pytest.raises(InvalidValueError):
        await work_on_run(pool, run.run_id)
    assert await runs.due_runs(pool) == [], "not before a minute"
    for _ in range(runs.MOST_FAILURES - 1):
        with pytest.raises(InvalidValueError):
            await work_on_run(pool, run.run_id)
    given_up = await work_on_run(pool, run.run_id)
    assert (given_up.state, given_up.last_error) == ("failed", "This price is no price.")
    assert await runs.due_runs(pool) == []


async def test_a_run_or_a_month_that_there_is_not(pool: Pool) -> None:
    with pytest.raises(NotFoundError):
        await work_on_run(pool, "run_none")
    with pytest.raises(InvalidValueError):
        await runs.request_run(pool, "2025-13", MAKER, NOW)
    begins = datetime(2026, 11, 30, 10, tzinfo=UTC)  # of December, where it begins first
    with pytest.raises(InvalidValueError):
        await runs.request_run(pool, "2026-12", MAKER, begins.replace(hour=9, minute=59))
    assert (await runs.request_run(pool, "2026-12", MAKER, begins)).state == "waiting"


def test_the_command_closes_what_is_over_and_says_what_is_open(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    invoke = CliRunner().invoke
    tenant_id = json.loads(invoke(main, ["tenant", "create", "Acme", "--json"]).stdout)["tenant_id"]
    month = f"{datetime.now(UTC):%Y-%m}"
    asyncio.run(use(database_url, tenant_id, [(TTS_CHARACTERS, 5)], OCTOBER))
    asyncio.run(use(database_url, tenant_id, [(TTS_CHARACTERS, 5)], datetime.now(UTC)))
    over = invoke(main, ["invoice", "run", "--period", "2025-10", "--json"])
    assert [one["status"] for one in json.loads(over.stdout)["invoices"]] == ["in_review"]
    assert over.stderr == ""
    running = invoke(main, ["invoice", "run", "--period", month, "--json"])
    assert [one["status"] for one in json.loads(running.stdout)["invoices"]] == ["draft"]
    assert "1 of these are previews" in running.stderr
    refused = invoke(main, ["invoice", "run", "--period", "2199-01"])
    assert refused.exit_code == 1
    assert refused.stderr == "Error: The month 2199-01 has not begun: there is nothing to bill.\n"
    with psycopg.connect(database_url) as connection:
        (events,) = connection.execute(
            "SELECT count(*) FROM billing.audit_event WHERE action = 'run' AND refused"
        ).fetchone() or (0,)
    assert events == 1
