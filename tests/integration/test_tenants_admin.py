"""Tenants and keys over PostgreSQL: made, listed, rotated, revoked."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from infra.database import Connection, Pool
from infra.errors import DomainError, InvalidValueError, NotFoundError, UnavailableError
from tenants import api_keys, keys, store, tenants
from tenants.last_used import LastUsed
from tenants.records import ApiKey, KeyRecord, Tenant
from tests.tenants_world import make_tenant


@pytest.fixture
async def tenant(pool: Pool) -> Tenant:
    return await make_tenant(pool, "小店 Ltd")


async def stored(pool: Pool, text: str) -> KeyRecord | None:
    digest = keys.digest(text)
    async with pool.connection() as connection:
        return (await store.keys_by_digest(connection, [digest])).get(digest)


async def shown(pool: Pool, tenant: Tenant, key_id: str) -> ApiKey:
    [found] = [key for key in await api_keys.list_keys(pool, tenant.tenant_id) if key.key_id == key_id]
    return found


def soon(**duration: float) -> datetime:
    return datetime.now(UTC) + timedelta(**duration)


async def test_a_tenant_is_made_listed_and_shown(pool: Pool) -> None:
    first, second = [await make_tenant(pool, name) for name in (" One ", "Two")]

    assert first.name == "One"
    assert await tenants.operator_list_tenants(pool) == [first, second]
    assert await tenants.operator_list_tenants(pool, limit=1) == [first]
    assert await tenants.operator_list_tenants(pool, after=first.tenant_id) == [second]
    assert await tenants.show_tenant(pool, second.tenant_id) == second
    with pytest.raises(NotFoundError):
        await tenants.show_tenant(pool, "ten_unknown")


async def test_a_tenants_bad_name_is_refused(pool: Pool) -> None:
    for name in ("", "   ", "x" * 201, "two\nlines", "nul\0"):
        with pytest.raises(InvalidValueError) as refused:
            await make_tenant(pool, name)
        assert refused.value.param == "name"
    assert await tenants.operator_list_tenants(pool) == []


async def test_a_key_has_all_products_no_expiry_and_no_networks_unless_told(
    pool: Pool, tenant: Tenant
) -> None:
    issued = await api_keys.create_key(pool, tenant.tenant_id)
    text = issued.text.reveal()

    assert keys.parse(text) == keys.ParsedKey(issued.api_key.key_id, "live")
    assert issued.api_key.scopes == ("asr", "intent", "tts")
    assert issued.api_key.expires_at is None
    assert issued.api_key.allowed_networks == ()
    assert text not in repr(issued)
    assert await api_keys.list_keys(pool, tenant.tenant_id) == [issued.api_key]


async def test_a_key_is_made_as_told(pool: Pool, tenant: Tenant) -> None:
    expires_at = soon(days=90)
    networks = ["203.0.113.0/24", "2001:db8::/32", "198.51.100.7"]
    issued = await api_keys.create_key(
        pool,
        tenant.tenant_id,
        name="call centre",
        mode="test",
        scopes=["tts", "asr", "tts"],
        expires_at=expires_at,
        allowed_networks=networks,
    )
    record = await stored(pool, issued.text.reveal())

    assert issued.api_key.mode == "test"
    assert issued.api_key.scopes == ("asr", "tts")
    assert issued.api_key.allowed_networks == ("203.0.113.0/24", "2001:db8::/32", "198.51.100.7/32")
    assert record is not None
    assert record.tenant_id == tenant.tenant_id
    assert record.scopes == {"asr", "tts"}
    assert record.expires_at == expires_at
    assert [str(network) for network in record.allowed_networks] == list(issued.api_key.allowed_networks)


BAD_VALUES: list[tuple[str, object]] = [
    ("scopes", ["asr", "usage"]),
    ("scopes", []),
    ("expires_at", datetime(2020, 1, 1, tzinfo=UTC)),
    ("expires_at", datetime(2999, 1, 1)),
    ("allowed_networks", ["10.0.0.1/8"]),
    ("allowed_networks", ["everywhere"]),
    ("allowed_networks", ["10.0.0.0/8"] * 65),
    ("name", "x" * 201),
    ("mode", "free"),
]


async def test_a_bad_value_is_refused_and_named(pool: Pool, tenant: Tenant) -> None:
    for param, value in BAD_VALUES:
        with pytest.raises(InvalidValueError) as refused:
            await api_keys.create_key(pool, tenant.tenant_id, **{param: value})  # type: ignore[arg-type]
        assert refused.value.param == param
    assert await api_keys.list_keys(pool, tenant.tenant_id) == []


async def test_a_key_for_no_tenant_is_refused(pool: Pool) -> None:
    with pytest.raises(NotFoundError):
        await api_keys.create_key(pool, "ten_unknown")


async def test_a_rotated_key_has_a_successor_like_it_and_works_until_its_grace_is_over(
    pool: Pool, tenant: Tenant
) -> None:
    old = await api_keys.create_key(
        pool,
        tenant.tenant_id,
        name="shop",
        mode="test",
        scopes=["intent"],
        expires_at=soon(days=90),
        allowed_networks=["10.0.0.0/8"],
    )
    new = await api_keys.rotate_key(pool, tenant.tenant_id, old.api_key.key_id, timedelta(hours=1))
    retired = await shown(pool, tenant, old.api_key.key_id)

    for attribute in ("name", "mode", "scopes", "allowed_networks", "tenant_id"):
        assert getattr(new.api_key, attribute) == getattr(old.api_key, attribute)
    assert new.api_key.expires_at
    assert old.api_key.expires_at
    lifetime = old.api_key.expires_at - old.api_key.created_at
    assert new.api_key.expires_at - new.api_key.created_at == lifetime
    assert retired.replaced_by == new.api_key.key_id
    assert retired.expires_at == new.api_key.created_at + timedelta(hours=1)
    assert await stored(pool, new.text.reveal()) is not None


async def test_a_grace_never_lengthens_a_keys_life(pool: Pool, tenant: Tenant) -> None:
    expires_at = soon(hours=1)
    old = await api_keys.create_key(pool, tenant.tenant_id, expires_at=expires_at)
    await api_keys.rotate_key(pool, tenant.tenant_id, old.api_key.key_id, timedelta(days=1))

    assert (await shown(pool, tenant, old.api_key.key_id)).expires_at == expires_at


async def test_only_a_working_key_is_rotated_and_only_once(pool: Pool, tenant: Tenant) -> None:
    replaced, revoked, expired, fine = [
        (await api_keys.create_key(pool, tenant.tenant_id)).api_key.key_id for _ in range(4)
    ]
    await api_keys.rotate_key(pool, tenant.tenant_id, replaced)
    await api_keys.revoke_key(pool, tenant.tenant_id, revoked)
    async with pool.connection() as connection:
        await connection.execute("UPDATE tenants.api_key SET expires_at = now() WHERE key_id = %s", [expired])

    for key_id in (replaced, revoked, expired):
        with pytest.raises(InvalidValueError):
            await api_keys.rotate_key(pool, tenant.tenant_id, key_id)
    for grace in (timedelta(seconds=-1), timedelta(days=31)):
        with pytest.raises(InvalidValueError):
            await api_keys.rotate_key(pool, tenant.tenant_id, fine, grace)
    assert len(await api_keys.list_keys(pool, tenant.tenant_id)) == 5


async def test_of_rotations_at_the_same_moment_one_wins(pool: Pool, tenant: Tenant) -> None:
    key_id = (await api_keys.create_key(pool, tenant.tenant_id)).api_key.key_id
    async with pool.connection() as holder, pool.connection() as observer:
        async with holder.transaction():
            await store.lock_key(holder, tenant.tenant_id, key_id)
            rotations = [
                asyncio.create_task(api_keys.rotate_key(pool, tenant.tenant_id, key_id)) for _ in range(2)
            ]
            async with asyncio.timeout(3):
                while await waiting_for_a_lock(observer) < 2:
                    await asyncio.sleep(0.005)
        outcomes = await asyncio.gather(*rotations, return_exceptions=True)

    assert sorted(isinstance(outcome, InvalidValueError) for outcome in outcomes) == [False, True]
    assert len(await api_keys.list_keys(pool, tenant.tenant_id)) == 2


async def waiting_for_a_lock(observer: Connection) -> int:
    cursor = await observer.execute(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    [count] = await cursor.fetchone() or [0]
    return count


async def test_changes_of_many_keys_at_the_same_moment_do_not_deadlock(pool: Pool, tenant: Tenant) -> None:
    key_ids = [(await api_keys.create_key(pool, tenant.tenant_id)).api_key.key_id for _ in range(10)]
    outcomes = await asyncio.gather(
        *(api_keys.rotate_key(pool, tenant.tenant_id, key_id) for key_id in key_ids),
        *(api_keys.revoke_key(pool, tenant.tenant_id, key_id) for key_id in reversed(key_ids)),
        *(api_keys.create_key(pool, tenant.tenant_id) for _ in range(10)),
        return_exceptions=True,
    )

    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert all(isinstance(error, InvalidValueError) for error in errors), errors
    made = len(await api_keys.list_keys(pool, tenant.tenant_id))
    assert made == 30 - len(errors)
    async with pool.connection() as connection:
        epoch = await store.key_epoch(connection)
    assert epoch == made + 10 + (10 - len(errors))  # keys made, revoked, retired


async def test_revoking_is_final_and_repeatable(pool: Pool, tenant: Tenant) -> None:
    issued = await api_keys.create_key(pool, tenant.tenant_id)
    first = await api_keys.revoke_key(pool, tenant.tenant_id, issued.api_key.key_id)
    second = await api_keys.revoke_key(pool, tenant.tenant_id, issued.api_key.key_id)

    assert first.revoked_at is not None
    assert second == first
    with pytest.raises(NotFoundError):
        await api_keys.revoke_key(pool, tenant.tenant_id, "key_unknown")


async def test_a_key_of_another_tenant_is_not_there(pool: Pool, tenant: Tenant) -> None:
    other = await make_tenant(pool, "Other")
    theirs = await api_keys.create_key(pool, other.tenant_id)

    for act in (api_keys.revoke_key, api_keys.rotate_key):
        with pytest.raises(NotFoundError):
            await act(pool, tenant.tenant_id, theirs.api_key.key_id)
    assert await api_keys.list_keys(pool, tenant.tenant_id) == []
    assert await api_keys.list_keys(pool, other.tenant_id) == [theirs.api_key]
    assert await api_keys.operator_tenant_of_key(pool, theirs.api_key.key_id) == other.tenant_id
    with pytest.raises(NotFoundError):
        await api_keys.operator_tenant_of_key(pool, "key_unknown")


async def test_keys_are_listed_in_pages(pool: Pool, tenant: Tenant) -> None:
    made = [(await api_keys.create_key(pool, tenant.tenant_id)).api_key for _ in range(5)]

    first = await api_keys.list_keys(pool, tenant.tenant_id, limit=3)
    assert first == made[:3]
    assert await api_keys.list_keys(pool, tenant.tenant_id, first[-1].key_id, 3) == made[3:]
    assert await api_keys.operator_list_keys(pool, first[-1].key_id) == made[3:]
    assert await api_keys.operator_list_keys(pool) == made


async def test_the_secret_is_nowhere_in_the_database(pool: Pool, tenant: Tenant) -> None:
    first = await api_keys.create_key(pool, tenant.tenant_id, name="first")
    second = await api_keys.rotate_key(pool, tenant.tenant_id, first.api_key.key_id)
    texts = [first.text.reveal(), second.text.reveal()]
    secrets = [text[24:] for text in texts] + [text[24:56] for text in texts]
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT format('%I.%I', table_schema, table_name) FROM information_schema.tables "
            "WHERE table_schema NOT IN ('pg_catalog', 'information_schema') AND table_type = 'BASE TABLE'"
        )
        tables = [table for (table,) in await cursor.fetchall()]
        rows: list[str] = []
        for table in tables:
            cursor = await connection.execute(f"SELECT row_to_json(t)::text FROM {table} AS t".encode())
            rows += [row for (row,) in await cursor.fetchall()]

    everything = "\n".join(rows)
    assert keys.digest(texts[0]).hex() in everything  # the search does find what is there
    for secret in secrets:
        assert secret not in everything
        assert secret.encode().hex() not in everything


async def test_uses_are_written_together_and_at_most_once_a_minute(pool: Pool, tenant: Tenant) -> None:
    key_ids = [(await api_keys.create_key(pool, tenant.tenant_id)).api_key.key_id for _ in range(3)]

    async def uses() -> list[datetime | None]:
        return [key.last_used_at for key in await api_keys.list_keys(pool, tenant.tenant_id)]

    async def epoch() -> int:
        async with pool.connection() as connection:
            return await store.key_epoch(connection)

    epoch_before = await epoch()
    workers = [LastUsed(pool), LastUsed(pool)]
    for worker in workers:
        for key_id in (key_ids[1], key_ids[0], key_ids[0]):
            worker.note(key_id)
    await asyncio.gather(*(worker.flush() for worker in workers))
    first = await uses()
    assert first[0] is not None
    assert first[1] is not None
    assert first[2] is None

    for worker in (*workers, LastUsed(pool)):
        for key_id in key_ids:
            worker.note(key_id)
        await worker.close()
    second = await uses()
    assert second[:2] == first[:2]
    assert second[2] is not None

    async with pool.connection() as connection:
        await connection.execute("UPDATE tenants.api_key SET last_used_at = now() - interval '61 seconds'")
    fresh = LastUsed(pool)
    fresh.note(key_ids[0])
    await fresh.flush()
    assert ((await uses())[0] or first[0]) > first[0]
    assert await epoch() == epoch_before  # a use must not empty the caches


async def test_uses_are_written_by_themselves_and_their_number_is_bounded(pool: Pool, tenant: Tenant) -> None:
    key_id = (await api_keys.create_key(pool, tenant.tenant_id)).api_key.key_id
    last_used = LastUsed(pool, max_keys=5, flush_every_s=0.02)
    last_used.note(key_id)
    for number in range(100):
        last_used.note(f"key_{number}")
    assert len(last_used._due) == 5

    await last_used.start()
    async with asyncio.timeout(2):
        while (await shown(pool, tenant, key_id)).last_used_at is None:
            await asyncio.sleep(0.01)
    await last_used.close()


async def test_while_postgresql_is_away_the_answer_is_unavailable_and_uses_are_kept(
    pool: Pool, tenant: Tenant
) -> None:
    last_used = LastUsed(pool)
    last_used.note("key_1")
    await pool.close()
    failures: list[DomainError] = []
    for action in (tenants.operator_list_tenants(pool), last_used.flush()):
        with pytest.raises(UnavailableError) as failure:
            await action
        failures.append(failure.value)

    assert all(failure.code == "service_unavailable" for failure in failures)
    assert last_used._due == {"key_1"}
