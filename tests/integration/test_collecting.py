"""Invoices collected through Stripe, over real HTTP against a stateful fake."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest

from billing.accounts import open_account
from billing.audit import audit_trail
from billing.collecting import outbox
from billing.collecting.collector import MOST_ATTEMPTS, Collector
from billing.collecting.items import differences, order_of
from billing.collecting.listing import list_collections, show_collection
from billing.invoices import show_invoice
from billing.issuing import approve, issue, mark_paid
from infra.database import Pool
from infra.errors import InvalidValueError, NotFoundError
from tests.billing_world import add_account, add_tenant
from tests.collecting_world import AFTER_OCTOBER, DOLLARS, Shop, open_shop
from tests.fake_stripe import API_KEY, Asked, Fault
from tests.invoice_world import CHECKER, OCTOBER, close, issue_all, run, use
from tests.unit.test_collecting_items import invoice, line


@pytest.fixture
async def shop(pool: Pool, database_url: str) -> AsyncIterator[Shop]:
    async with open_shop(pool, database_url) as opened:
        yield opened


async def test_an_issued_invoice_is_sent_with_our_amounts_and_paid_here_when_it_is_paid_there(
    shop: Shop,
) -> None:
    (issued,) = await shop.issue()
    assert (await shop.show(issued)).state == "waiting"
    collection = await shop.collect(issued)
    assert (collection.state, collection.due, collection.reason) == ("open", "15.40 USD", None)
    assert collection.delivered_at is not None
    there = shop.only_invoice()
    assert (there["status"], there["total"], there["currency"]) == ("open", 1540, "usd")
    assert (there["number"], there["metadata"]["aiaas_content_sha256"]) == (
        "AG-000001",
        issued.content_sha256,
    )
    assert [line["amount"] for line in shop.objects.lines[there["id"]]] == [40, 1500]
    assert shop.objects.emails == [there["id"]]
    assert there["auto_advance"], "reminders are Stripe's from here on"

    shop.objects.receive_payment(there["id"])
    await shop.collector.look_again(issued.invoice_id)
    assert (await shop.show(issued)).state == "paid"
    assert (await show_invoice(shop.pool, issued.invoice_id)).status == "paid"
    paid = (await audit_trail(shop.pool, issued.invoice_id))[0]
    assert (paid.actor, paid.action, paid.detail["by"]) == ("worker", "paid", "stripe")
    asked = len(shop.stripe.asked)
    await shop.collector.collect(issued.invoice_id)
    assert len(shop.stripe.asked) == asked, "what is done with is not looked at again"


async def test_the_keys_of_requests_are_the_same_for_the_same_revision_and_step(shop: Shop) -> None:
    (issued,) = await shop.issue()
    await shop.collect(issued)
    keys = [one.key for one in shop.stripe.asked if one.key and one.key.startswith("aiaas:")]
    steps = [f"aiaas:{issued.invoice_id}:1:{step}" for step in ("create", "items", "finalise", "send")]
    assert keys == [f"aiaas:{issued.tenant_id}:customer", *steps]


@pytest.mark.parametrize(
    ("charge", "state", "here"),
    [
        ("succeeded", "paid", "paid"),
        ("declined", "payment_failed", "issued"),
        ("requires_action", "action_required", "issued"),
        ("processing", "open", "issued"),
    ],
)
async def test_a_charge_that_fails_is_dunned_and_not_charged_by_us_again(
    shop: Shop, charge: str, state: str, here: str
) -> None:
    (issued,) = await shop.issue(method="charge")
    shop.objects.charge = charge
    collection = await shop.collect(issued)
    assert (collection.state, collection.payment_attempts) == (state, 1)
    assert (await show_invoice(shop.pool, issued.invoice_id)).status == here
    await shop.collector.look_again(issued.invoice_id)
    assert shop.stripe.count("POST /v1/invoices/*/pay") == 1
    assert shop.only_invoice()["auto_advance"] is (state != "paid"), "further charges are Stripe's"


async def test_an_invoice_falls_past_due_without_any_event(shop: Shop) -> None:
    (issued,) = await shop.issue()
    collection = await shop.collect(issued)
    there = shop.only_invoice()
    assert collection.look_again_at is not None
    assert int(collection.look_again_at.timestamp()) - there["due_date"] in (59, 60, 61)
    there["due_date"] -= 31 * 86_400
    await shop.run("UPDATE billing.collection SET due_at = now()")
    await shop.collector.collect(issued.invoice_id)
    assert (await shop.show(issued)).state == "past_due"


async def test_while_collection_is_off_nothing_waits_to_be_sent_by_surprise(
    shop: Shop, database_url: str
) -> None:
    await use(database_url, await add_account(shop.pool, now=OCTOBER), DOLLARS)
    await close(shop.pool, AFTER_OCTOBER)
    (by_hand,) = await issue_all(shop.pool)
    assert await list_collections(shop.pool) == []
    with pytest.raises(outbox.CollectionStateError, match="STRIPE_API_KEY"):
        await outbox.enter(shop.pool, by_hand.invoice_id, CHECKER)
    await outbox.set_collector(shop.pool, "send", livemode=False)
    assert await shop.collector.take_up_due() == 0

    await outbox.enter(shop.pool, by_hand.invoice_id, CHECKER)
    with pytest.raises(outbox.CollectionStateError, match="already"):
        await outbox.enter(shop.pool, by_hand.invoice_id, CHECKER)
    trail = [(event.action, event.refused) for event in await audit_trail(shop.pool, by_hand.invoice_id)]
    assert trail[:3] == [("collect", True), ("collect", False), ("collect", True)]
    switched = await audit_trail(shop.pool, "stripe")
    assert [event.detail for event in switched] == [{"method": "send", "livemode": False}]


async def test_nothing_due_is_not_collected_and_what_is_not_issued_cannot_be(
    shop: Shop, database_url: str
) -> None:
    await outbox.set_collector(shop.pool, "send", livemode=False)
    await use(database_url, await add_account(shop.pool, now=OCTOBER), [DOLLARS[1]])
    (draft,) = await run(shop.pool)
    with pytest.raises(outbox.CollectionStateError):
        await outbox.enter(shop.pool, draft.invoice_id, CHECKER)
    await close(shop.pool, AFTER_OCTOBER)
    (carried,) = await issue_all(shop.pool)
    assert (carried.due_minor, carried.status) == (0, "paid")
    assert await list_collections(shop.pool) == []
    with pytest.raises(outbox.CollectionStateError):
        await outbox.enter(shop.pool, carried.invoice_id, CHECKER)
    with pytest.raises(NotFoundError):
        await outbox.enter(shop.pool, "inv_none", CHECKER)


async def test_a_key_of_the_other_mode_does_not_touch_what_was_issued_under_this_one(shop: Shop) -> None:
    (issued,) = await shop.issue()
    shop.api.livemode = True
    assert await shop.collector.take_up_due() == 0
    await shop.collector.collect(issued.invoice_id)
    assert shop.stripe.asked == []


@pytest.mark.parametrize(
    ("code", "minor", "provider"), [("TWD", 480, 48_000), ("JPY", 2300, 2300), ("HKD", 1234, 1234)]
)
async def test_each_currency_reaches_stripe_in_its_own_unit(
    shop: Shop, code: str, minor: int, provider: int
) -> None:
    nanos = minor * 10**9 // (1 if code in ("TWD", "JPY") else 100)
    async with shop.pool.connection() as connection, connection.transaction():
        await connection.execute(
            "INSERT INTO billing.price_version (price_version_id, plan, currency, valid_from, minimum_nanos) "
            "VALUES ('prv_test', 'test', %s, '-infinity', %s)",
            [code, nanos],
        )
        for table, rest in (
            ("meter_price", "meter, per_units"),
            ("price_tier", "meter, tier, up_to_units, nanos"),
        ):
            await connection.execute(
                f"INSERT INTO billing.{table} (price_version_id, {rest}) SELECT 'prv_test', {rest} "
                f"FROM billing.{table} JOIN billing.price_version USING (price_version_id) "
                "WHERE plan = 'standard' AND currency = 'USD'".encode()
            )
    tenant_id = await add_tenant(shop.pool)
    async with shop.pool.connection() as connection:
        await open_account(connection, tenant_id, plan="test", currency=code, time_zone="UTC", now=OCTOBER)
    await shop.run("UPDATE billing.profile SET email = 'a@example.com'")
    await outbox.set_collector(shop.pool, "send", livemode=False)
    await close(shop.pool, AFTER_OCTOBER)
    (made,) = await run(shop.pool)
    await approve(shop.pool, made.invoice_id, CHECKER)
    issued = await issue(shop.pool, made.invoice_id, CHECKER)
    assert issued.due_minor == minor
    collection = await shop.collect(issued)
    assert (collection.state, shop.only_invoice()["total"]) == ("open", provider)


def _with(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda invoice: invoice.update(fields)


@pytest.mark.parametrize(
    "tamper", [_with(total=1541, subtotal=1541), _with(currency="eur"), _with(starting_balance=-500)]
)
async def test_an_invoice_that_reads_back_otherwise_is_never_final_and_somebody_sees_it(
    shop: Shop, tamper: Callable[[dict[str, Any]], None]
) -> None:
    (issued,) = await shop.issue()
    shop.objects.tamper = tamper
    collection = await shop.collect(issued)
    assert collection.state == "mismatch"
    assert collection.reason
    assert " at Stripe" in collection.reason
    assert shop.only_invoice()["status"] == "draft"
    await shop.collector.look_again(issued.invoice_id)
    seen = [event for event in await audit_trail(shop.pool, issued.invoice_id) if "mismatch" in event.action]
    assert [event.detail for event in seen] == [{"reason": collection.reason}], (
        "once, however often it is seen"
    )
    assert [one.invoice_id for one in await list_collections(shop.pool, ["mismatch"])] == [issued.invoice_id]

    shop.objects.tamper = lambda invoice: None
    await outbox.retry(shop.pool, issued.invoice_id, CHECKER)
    assert (await shop.collect(issued)).state == "open"
    assert shop.only_invoice()["total"] == 1540
    with pytest.raises(outbox.CollectionStateError):
        await outbox.retry(shop.pool, issued.invoice_id, CHECKER)


async def test_an_invoice_of_more_lines_than_stripe_takes_is_read_back_whole(shop: Shop) -> None:
    order = order_of(invoice([line(number, number) for number in range(1, 301)], tax=7), "send")
    customer_id = await shop.api.create_customer("ten_1", "k")
    made = await shop.api.create_invoice(order, customer_id, "l")
    await shop.api.add_items(made.id, order.items, "m")
    found, lines = await shop.api.read_invoice(made.id), await shop.api.read_lines(made.id)
    assert len(lines) == 250
    assert differences(order, customer_id, False, found, lines) == []


async def test_an_item_that_somebody_added_keeps_an_invoice_from_being_final(shop: Shop) -> None:
    (issued,) = await shop.issue()

    def add_one(asked: Any) -> None:
        if asked.name == "POST /v1/invoices/*/finalize":
            raise AssertionError("it was compared before")
        if asked.name.endswith("add_lines"):
            stripe_id = asked.path.split("/")[3]
            shop.objects.lines[stripe_id].append(
                shop.objects._line(shop.objects.invoices[stripe_id], {"amount": "0"})
            )

    shop.stripe.hold = add_one
    assert "items: 2 here, 3 at Stripe" in str((await shop.collect(issued)).reason)


async def test_what_changed_while_it_became_final_is_not_sent(shop: Shop) -> None:
    """Between the comparison and the request that makes it final, the customer gets a balance."""
    (issued,) = await shop.issue()

    def credit(asked: Any) -> None:
        if asked.name.endswith("finalize"):
            shop.only_invoice()["starting_balance"] = -500

    shop.stripe.hold = credit
    assert (await shop.collect(issued)).state == "mismatch"
    assert shop.only_invoice()["status"] == "open"
    assert shop.objects.emails == []


@pytest.mark.parametrize("paid", [1000, 2000])
async def test_another_amount_than_was_due_does_not_pay_an_invoice(shop: Shop, paid: int) -> None:
    (issued,) = await shop.issue()
    await shop.collect(issued)
    there = shop.only_invoice()
    shop.objects.receive_payment(there["id"], paid)
    there["status"] = "paid"
    await shop.collector.look_again(issued.invoice_id)
    collection = await shop.show(issued)
    assert (collection.state, str(collection.reason).split(":")[0]) == ("mismatch", "paid")
    assert (await show_invoice(shop.pool, issued.invoice_id)).status == "issued"


@pytest.mark.parametrize("done_here", ["void", "uncollectible", "paid"])
async def test_what_becomes_of_an_invoice_here_becomes_of_it_there(shop: Shop, done_here: str) -> None:
    sent, drafted, waiting = await shop.issue(3)
    await shop.collect(sent)

    def stop(asked: Any) -> Fault:
        return "cut before" if asked.name.endswith(("add_lines", "finalize")) else None

    shop.stripe.fault = stop
    await shop.collector.collect(drafted.invoice_id)
    assert {one["status"] for one in shop.objects.invoices.values()} == {"open", "draft"}
    shop.stripe.fault = lambda asked: None
    for one in (sent, drafted, waiting):
        if done_here == "paid":
            await mark_paid(shop.pool, one.invoice_id, CHECKER, "bank 1")
        else:
            await shop.run(
                "UPDATE billing.invoice SET status = %s, settled_at = now() WHERE invoice_id = %s",
                done_here,
                one.invoice_id,
            )
    assert (await shop.collect(sent)).state == done_here
    assert (await shop.collect(drafted)).state == "withdrawn"
    assert (await shop.collect(waiting)).state == "withdrawn"
    (there,) = shop.objects.invoices.values()
    assert there["status"] == done_here
    if done_here == "paid":
        assert there["amount_paid_off_stripe"] == 1540


async def test_what_happens_while_an_invoice_is_worked_on_has_it_woken_again(shop: Shop) -> None:
    """It is paid by hand after the last look, before the end of the run is recorded."""
    (issued,) = await shop.issue()
    shop.collector = Collector(shop.pool, shop.api, timeout_s=20)
    happened: list[bool] = []

    def pay_by_hand(asked: Asked) -> Fault:
        if asked.name == "GET /v1/invoices/*" and shop.only_invoice()["auto_advance"] and not happened:
            happened.append(True)
            with psycopg.connect(shop.database_url) as connection:
                connection.execute("UPDATE billing.invoice SET status = 'paid', settled_at = now()")
        return None

    shop.stripe.fault = pay_by_hand
    await shop.collector.collect(issued.invoice_id)
    assert ((await shop.show(issued)).state, happened) == ("open", [True])
    assert await shop.collector.take_up_due() == 1
    await shop.collector.collect(issued.invoice_id)
    assert (await shop.show(issued)).state == "paid"
    assert await shop.collector.take_up_due() == 0


async def test_who_holds_an_invoice_has_it_alone_until_the_lease_is_over(shop: Shop) -> None:
    (issued,) = await shop.issue()
    first = Collector(shop.pool, shop.api, timeout_s=20)
    shop.stripe.fault = lambda asked: "cut before"
    await asyncio.gather(*(first.collect(issued.invoice_id) for _ in range(5)))
    assert len(shop.stripe.asked) == 1


async def test_a_draft_that_somebody_deleted_is_made_anew_on_request(shop: Shop) -> None:
    (issued,) = await shop.issue()
    shop.objects.tamper = _with(total=1)
    await shop.collect(issued)
    shop.objects.tamper = lambda invoice: None
    shop.objects.delete_invoice(shop.only_invoice()["id"])
    await shop.collector.look_again(issued.invoice_id)
    assert "gone at Stripe" in str((await shop.show(issued)).reason)
    await outbox.retry(shop.pool, issued.invoice_id, CHECKER)
    assert (await shop.collect(issued)).state == "open"
    assert shop.only_invoice()["total"] == 1540


async def test_what_is_written_off_here_and_paid_there_after_all_is_paid(shop: Shop) -> None:
    (issued,) = await shop.issue()
    await shop.collect(issued)
    await shop.run("UPDATE billing.invoice SET status = 'uncollectible'")
    assert (await shop.collect(issued)).state == "uncollectible"
    shop.objects.receive_payment(shop.only_invoice()["id"])
    await shop.collector.look_again(issued.invoice_id)
    assert (await show_invoice(shop.pool, issued.invoice_id)).status == "paid"


async def test_contradictions_are_left_to_people(shop: Shop) -> None:
    void_there, gone = await shop.issue(2)
    await asyncio.gather(shop.collect(void_there), shop.collect(gone))
    by_ours = {one["metadata"]["aiaas_invoice_id"]: one["id"] for one in shop.objects.invoices.values()}
    shop.objects.void(by_ours[void_there.invoice_id])
    del shop.objects.invoices[by_ours[gone.invoice_id]]
    for one, said in ((void_there, "issued here, void at Stripe"), (gone, "gone at Stripe")):
        await shop.collector.look_again(one.invoice_id)
        collection = await shop.show(one)
        assert (collection.state, said in str(collection.reason)) == ("mismatch", True)
        assert (await show_invoice(shop.pool, one.invoice_id)).status == "issued"


async def test_an_invoice_without_an_address_to_send_it_to_fails_until_there_is_one(shop: Shop) -> None:
    (issued,) = await shop.issue()
    await shop.run("UPDATE billing.profile SET email = ''")
    collection = await shop.collect(issued)
    assert (collection.state, str(collection.reason)[:8]) == ("failed", "no_email")
    assert shop.objects.invoices == {}
    await shop.run("UPDATE billing.profile SET email = 'new@example.com'")
    await outbox.retry(shop.pool, issued.invoice_id, CHECKER)
    assert (await shop.collect(issued)).state == "open"
    assert shop.only_invoice()["customer_email"] == "new@example.com"


async def test_a_wrong_key_makes_invoices_wait_and_is_in_no_record(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="aiaas")
    (issued,) = await shop.issue()
    shop.api._v1._requestor._options.api_key = "sk_test_hunter2"
    await shop.collector.collect(issued.invoice_id)
    collection = await shop.show(issued)
    assert (collection.state, collection.reason) == ("waiting", "http_401 invalid_request_error req_1")
    trail = [event.detail for event in await audit_trail(shop.pool)]
    logged = "".join(str(record.__dict__) for record in caplog.records if record.name.startswith("aiaas"))
    assert "collection_tried_later" in logged
    assert "hunter2" not in f"{trail}{logged}{collection}"
    assert API_KEY not in f"{trail}{logged}{collection}"


async def test_attempts_have_a_bound_and_pauses_that_stripe_asks_for_are_kept(shop: Shop) -> None:
    (issued,) = await shop.issue()
    shop.stripe.fault = lambda asked: "429"
    shop.stripe.retry_after_s = 1000
    await shop.collector.collect(issued.invoice_id)
    (wait,) = (await shop.run("SELECT due_at - now() FROM billing.collection"))[0]
    assert 990 < wait.total_seconds() <= 1000
    await shop.run("UPDATE billing.collection SET attempts = %s, due_at = now()", MOST_ATTEMPTS - 1)
    await shop.collector.collect(issued.invoice_id)
    collection = await shop.show(issued)
    assert (collection.state, str(collection.reason)[:13]) == ("failed", "gave up: http")


async def test_a_refusal_that_is_ours_is_final_and_says_why(shop: Shop) -> None:
    (issued,) = await shop.issue()
    original = shop.objects.create_invoice
    shop.objects.create_invoice = lambda given: original({**given, "number": "A" * 27})  # type: ignore[method-assign]
    collection = await shop.collect(issued)
    assert (collection.state, collection.look_again_at) == ("failed", None)
    assert collection.reason == "http_400 invalid_request_error invalid_string_length number req_1"
    assert shop.stripe.count("POST /v1/invoices") == 2, "once more, since somebody else might have done it"


async def test_collections_are_listed_in_pages(shop: Shop) -> None:
    issued = await shop.issue(5)
    listed = [one.invoice_id for one in await list_collections(shop.pool)]
    assert sorted(listed) == sorted(one.invoice_id for one in issued)
    first = await list_collections(shop.pool, limit=2)
    rest = await list_collections(shop.pool, after=first[-1].invoice_id)
    assert [one.invoice_id for one in [*first, *rest]] == listed
    with pytest.raises(InvalidValueError):
        await list_collections(shop.pool, ["lost"])  # type: ignore[list-item]
    with pytest.raises(NotFoundError):
        await show_collection(shop.pool, "inv_none")
