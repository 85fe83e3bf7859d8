"""The commands by which finance reviews, issues and corrects invoices."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from click.testing import CliRunner, Result

from gateway.cli import main
from infra.database import Pool, open_pool
from tenants.records import IssuedStaffKey
from tenants.staff import add_member
from tests.billing_world import add_account
from tests.invoice_world import AFTER_OCTOBER, DOLLARS, OCTOBER, close, run, use

T = TypeVar("T")


class Office:
    """A database, and the people who run commands on it: by their key, or with the machine's account."""

    def __init__(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.url = url
        self._environ = monkeypatch
        monkeypatch.setenv("DATABASE_URL", url)
        monkeypatch.delenv("AIAAS_STAFF_KEY", raising=False)
        self.anna, self.bo = (self._member(name) for name in ("anna", "bo"))

    def do(self, work: Callable[[Pool], Awaitable[T]]) -> T:
        async def opened() -> T:
            pool = await open_pool(self.url, 2, "aiaas-test")
            try:
                return await work(pool)
            finally:
                await pool.close()

        return asyncio.run(opened())

    def run(self, *arguments: str, key: str | None = None) -> Result:
        with self._environ.context() as environ:
            if key:
                environ.setenv("AIAAS_STAFF_KEY", key)
            return CliRunner().invoke(main, arguments)

    def json(self, *arguments: str, key: str | None = None) -> Any:
        done = self.run(*arguments, "--json", key=key)
        assert done.exit_code == 0, done.output
        return json.loads(done.output)

    def used(self, tenants: int = 1) -> None:
        """October is over, with an invoice to be made for each of so many tenants."""

        async def work(pool: Pool) -> None:
            for _ in range(tenants):
                await use(self.url, await add_account(pool, now=OCTOBER), DOLLARS)
            await close(pool, AFTER_OCTOBER)

        self.do(work)

    def _member(self, name: str) -> str:
        async def work(pool: Pool) -> IssuedStaffKey:
            return await add_member(pool, name, f"{name}@example.com", "finance")

        return self.do(work).text.reveal()


@pytest.fixture
def office(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Office:
    return Office(database_url, monkeypatch)


def test_two_people_bring_an_invoice_from_the_queue_to_its_end(office: Office) -> None:
    office.used()
    (made,) = office.json("invoice", "run", "--period", "2025-10", key=office.anna)["invoices"]
    invoice_id = made["invoice_id"]
    shown = office.run("invoice", "queue")
    assert f"{invoice_id}  risk 20  15.00 USD" in shown.output
    assert "first_invoice: The tenant's first invoice" in shown.output
    office.json("invoice", "comment", invoice_id, "new customer", key=office.anna)
    assert "new customer" in office.run("invoice", "comments", invoice_id).output
    refused = office.run("invoice", "approve", invoice_id, key=office.anna)
    assert (refused.exit_code, "ask somebody else" in refused.output) == (1, True)
    office.json("invoice", "send-back", invoice_id, "--reason", "which tax?", key=office.bo)
    office.json("invoice", "run", "--period", "2025-10", key=office.anna)
    seen = office.json("invoice", "show", invoice_id)["content_sha256"]
    approved = office.json("invoice", "approve", invoice_id, "--sha256", seen, key=office.bo)
    assert approved["status"] == "approved"
    issued = office.run("invoice", "issue", invoice_id, key=office.bo)
    assert "AG-000001  issued, 15.00 USD open" in issued.output
    note = office.json(
        "credit-note", "create", invoice_id, "--line", "1=2.50", "--reason", "agreed", key=office.anna
    )
    assert (note["total_minor"], note["status"]) == (250, "draft")
    note_id = note["credit_note_id"]
    assert office.run("credit-note", "approve", note_id, key=office.anna).exit_code == 1
    office.json("credit-note", "approve", note_id, key=office.bo)
    shown = office.run("credit-note", "issue", note_id, key=office.bo)
    assert "AG-CN-000001  issued, against AG-000001" in shown.output
    assert "off the invoice 2.50 USD" in shown.output
    assert "credited -2.50 USD\nopen 12.50 USD" in office.run("invoice", "show", invoice_id).output
    assert office.run("invoice", "void", invoice_id, "--reason", "no", key=office.bo).exit_code == 1
    office.json("invoice", "write-off", invoice_id, "--reason", "insolvent", key=office.bo)
    paid = office.json("invoice", "pay", invoice_id, "--reference", "bank 1", key=office.bo)
    assert (paid["status"], paid["open_minor"]) == ("paid", 0)
    trail = office.run("audit", "--subject", invoice_id).output
    assert "approve, refused" in trail
    assert len(office.json("audit", "--limit", "3")["events"]) == 3


def test_one_os_account_cannot_do_both_and_is_told_what_to_do(office: Office) -> None:
    office.used()
    (made,) = office.json("invoice", "run", "--period", "2025-10")["invoices"]
    refused = office.run("invoice", "approve", made["invoice_id"])
    assert refused.exit_code == 1
    assert "AIAAS_STAFF_KEY" in refused.output
    assert len(refused.output.strip().splitlines()) == 1
    assert office.json("invoice", "approve", made["invoice_id"], key=office.bo)["status"] == "approved"


def test_a_month_is_issued_in_order_and_one_that_is_refused_stops_no_other(office: Office) -> None:
    office.used(tenants=3)
    made = office.json("invoice", "run", "--period", "2025-10", key=office.anna)["invoices"]
    for one in made:
        office.json("invoice", "approve", one["invoice_id"], key=office.bo)

    async def spoil(pool: Pool) -> None:
        async with pool.connection() as connection:
            await connection.execute(
                "UPDATE billing.invoice SET language = 'zh-TW' WHERE invoice_id = %s", [made[0]["invoice_id"]]
            )

    office.do(spoil)
    done = office.run("invoice", "issue", "--period", "2025-10", "--json", key=office.bo)
    assert done.exit_code == 1
    summary = json.loads(done.output)
    assert [one["number"] for one in summary["issued"]] == ["AG-000001", "AG-000002"]
    assert [one["tenant_id"] for one in summary["issued"]] == sorted(one["tenant_id"] for one in made[1:])
    assert [(one["invoice_id"], one["code"]) for one in summary["not_issued"]] == [
        (made[0]["invoice_id"], "stale_approval")
    ]
    again = office.run("invoice", "issue", "--period", "2025-10", key=office.bo)
    assert (again.exit_code, "0 issued, 1 refused" in again.output) == (1, True)


def test_a_void_invoice_is_made_anew_by_the_next_run(office: Office) -> None:
    office.used()
    (made,) = office.json("invoice", "run", "--period", "2025-10", key=office.anna)["invoices"]
    office.json("invoice", "approve", made["invoice_id"], key=office.bo)
    office.json("invoice", "issue", made["invoice_id"], key=office.bo)
    office.json("invoice", "void", made["invoice_id"], "--reason", "wrong name", "--reissue", key=office.bo)

    async def again(pool: Pool) -> tuple[int, str | None]:
        (invoice,) = await run(pool)
        return invoice.revision, invoice.replaces

    assert office.do(again) == (2, made["invoice_id"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["invoice", "issue"],
        ["invoice", "issue", "inv_1", "--period", "2025-10"],
        ["invoice", "issue", "--period", "October"],
        ["invoice", "approve", "inv_none"],
        ["invoice", "void", "inv_none", "--reason", "why"],
        ["invoice", "queue", "--after", "x"],
        ["credit-note", "create", "inv_none", "--line", "1=1.00", "--reason", "why"],
        ["credit-note", "create", "inv_none", "--reason", "why"],
        ["credit-note", "show", "crn_none"],
    ],
)
def test_what_is_wrong_is_one_line_and_a_status(office: Office, arguments: list[str]) -> None:
    done = office.run(*arguments)
    assert done.exit_code != 0
    assert done.output.strip().splitlines()[-1].startswith("Error:")


@pytest.mark.parametrize("line", ["1", "1=", "x=1.00", "1=1.005", "1=-1", "2=1.00", "1=0", "1=99.00"])
def test_a_credit_that_cannot_be_is_refused(office: Office, line: str) -> None:
    office.used()
    (made,) = office.json("invoice", "run", "--period", "2025-10", key=office.anna)["invoices"]
    office.json("invoice", "approve", made["invoice_id"], key=office.bo)
    office.json("invoice", "issue", made["invoice_id"], key=office.bo)
    done = office.run("credit-note", "create", made["invoice_id"], "--line", line, "--reason", "why")
    assert done.exit_code == 1
    assert office.json("credit-note", "list")["credit_notes"] == []
