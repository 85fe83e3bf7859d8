"""What a worker believes about keys, while PostgreSQL and the way to it misbehave."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest

from infra.database import Pool, open_pool
from infra.errors import DomainError, UnavailableError
from tenants import api_keys, keys, store
from tenants.authenticate import authenticate
from tenants.errors import RevokedApiKeyError
from tenants.key_cache import KeyCache
from tenants.records import IssuedKey, KeyRecord
from tests.tenants_world import make_tenant

PROMISE_S = 1.0


class Network:
    """The way to PostgreSQL: a relay that can fall silent without closing anything.

    `fall_silent` silences all connections, present and future; `lose_track` the present ones for good,
    as a firewall does that forgot them.
    """

    def __init__(self, database_url: str) -> None:
        self._target = urlsplit(database_url)
        self._open = asyncio.Event()
        self._open.set()
        self._silent_after: bytes | None = None
        self._server: asyncio.Server | None = None
        self._relays: set[asyncio.Task[None]] = set()
        self.connections = 0

    @property
    def url(self) -> str:
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        credentials = self._target.netloc.rsplit("@", 1)[0]
        return f"postgresql://{credentials}@127.0.0.1:{port}{self._target.path}"

    async def __aenter__(self) -> "Network":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    def fall_silent(self) -> None:
        self._open.clear()

    def lose_track(self) -> None:
        self._open.clear()
        self._open = asyncio.Event()
        self._open.set()

    def fall_silent_after(self, sent: bytes) -> None:
        """Let this pass to the server, and nothing back from then on."""
        self._silent_after = sent

    @property
    def is_silent(self) -> bool:
        return not self._open.is_set()

    def speak_again(self) -> None:
        self._silent_after = None
        self._open.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._target.hostname
        assert self._target.port
        upstream, upstream_writer = await asyncio.open_connection(self._target.hostname, self._target.port)
        self.connections += 1
        is_open = self._open
        for source, sink, outward in ((reader, upstream_writer, True), (upstream, writer, False)):
            relay = asyncio.create_task(self._relay(source, sink, outward, is_open))
            self._relays.add(relay)

    async def _relay(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        outward: bool,
        is_open: asyncio.Event,
    ) -> None:
        try:
            while data := await source.read(65536):
                if outward and self._silent_after and self._silent_after in data:
                    self.fall_silent()
                else:
                    await is_open.wait()
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            pass
        finally:
            sink.close()


@asynccontextmanager
async def running(pool: Pool, database_url: str, **options: float) -> AsyncIterator[KeyCache]:
    cache = KeyCache(pool, database_url, **options)  # type: ignore[arg-type]
    await cache.start()
    try:
        yield cache
    finally:
        await cache.close()


@pytest.fixture
async def tenant_id(pool: Pool) -> str:
    return (await make_tenant(pool, "Tenant")).tenant_id


@pytest.fixture
async def issued(pool: Pool, tenant_id: str) -> IssuedKey:
    return await api_keys.create_key(pool, tenant_id)


def digest_of(issued: IssuedKey) -> bytes:
    return keys.digest(issued.text.reveal())


async def revoke(pool: Pool, issued: IssuedKey) -> None:
    await api_keys.revoke_key(pool, issued.api_key.tenant_id, issued.api_key.key_id)


async def call(cache: KeyCache, issued: IssuedKey) -> KeyRecord:
    return await authenticate(cache, issued.text.reveal(), "127.0.0.1", datetime.now(UTC))


async def until(condition: Callable[[], Awaitable[bool]], timeout_s: float = 3.0) -> float:
    """Poll a condition; returns how long it took."""
    start_s = time.monotonic()
    async with asyncio.timeout(timeout_s):
        while not await condition():
            await asyncio.sleep(0.002)
    return time.monotonic() - start_s


async def is_refused(cache: KeyCache, issued: IssuedKey) -> bool:
    try:
        await call(cache, issued)
    except RevokedApiKeyError:
        return True
    return False


async def assert_refused_within_promise(cache: KeyCache, issued: IssuedKey) -> float:
    """To be called as soon as the key is revoked; the last success must be less than a second away."""
    took_s = await until(lambda: is_refused(cache, issued))
    assert took_s < PROMISE_S
    for _ in range(20):
        assert await is_refused(cache, issued)
    return took_s


def queries(pool: Pool) -> int:
    """How often the pool lent a connection."""
    return pool.get_stats().get("requests_num", 0)


async def replace_announcement(pool: Pool, body: str) -> None:
    async with pool.connection() as connection:
        await connection.execute(
            "CREATE OR REPLACE FUNCTION tenants.announce_key_change() RETURNS trigger "
            f"LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NULL; END $$".encode()
        )


async def test_a_known_key_is_served_from_memory(pool: Pool, database_url: str, issued: IssuedKey) -> None:
    async with running(pool, database_url) as cache:
        record = await call(cache, issued)
        before = queries(pool)
        for _ in range(100):
            assert await call(cache, issued) == record

        assert record.tenant_id == issued.api_key.tenant_id
        assert queries(pool) == before


async def test_many_first_calls_at_one_moment_are_one_query(
    pool: Pool, database_url: str, issued: IssuedKey
) -> None:
    async with running(pool, database_url) as cache:
        before = queries(pool)
        records = await asyncio.gather(*(call(cache, issued) for _ in range(100)))

        assert len(set(map(id, records))) == 1
        assert queries(pool) == before + 1


async def test_a_caller_that_goes_away_takes_no_other_with_it(
    pool: Pool, database_url: str, issued: IssuedKey
) -> None:
    async with running(pool, database_url) as cache:
        first, second = [asyncio.create_task(call(cache, issued)) for _ in range(2)]
        await asyncio.sleep(0)
        first.cancel()

        assert (await second).key_id == issued.api_key.key_id


async def test_a_revoked_key_is_refused_within_a_second(
    pool: Pool, database_url: str, issued: IssuedKey
) -> None:
    async with running(pool, database_url) as cache:
        await call(cache, issued)
        await revoke(pool, issued)
        await assert_refused_within_promise(cache, issued)


async def test_a_notification_alone_is_enough(pool: Pool, database_url: str, issued: IssuedKey) -> None:
    await replace_announcement(
        pool,
        "PERFORM pg_notify('aiaas_key_changed', (SELECT epoch + 1 FROM tenants.key_epoch) || ' ' "
        "|| encode(NEW.secret_sha256, 'hex'));",
    )
    async with running(pool, database_url) as cache:
        await call(cache, issued)
        await revoke(pool, issued)
        await assert_refused_within_promise(cache, issued)


async def test_the_epoch_alone_is_enough_when_notifications_are_lost(
    pool: Pool, database_url: str, issued: IssuedKey
) -> None:
    await replace_announcement(pool, "UPDATE tenants.key_epoch SET epoch = epoch + 1;")
    async with running(pool, database_url) as cache:
        await call(cache, issued)
        await revoke(pool, issued)
        await assert_refused_within_promise(cache, issued)


async def test_a_revoked_key_is_refused_when_the_listening_connection_was_cut(
    pool: Pool, database_url: str, issued: IssuedKey
) -> None:
    async with running(pool, database_url) as cache:
        await call(cache, issued)
        async with pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'aiaas-key-changes' AND datname = current_database()"
            )
            assert await cursor.fetchall() == [(True,)]
        await revoke(pool, issued)
        await assert_refused_within_promise(cache, issued)

        async def is_trusted() -> bool:
            return cache.is_trusted

        await until(is_trusted)  # it came back by itself


async def test_a_revoked_key_is_refused_when_the_listening_connection_fell_silent(
    pool: Pool, database_url: str, issued: IssuedKey
) -> None:
    async with Network(database_url) as network, running(pool, network.url) as cache:
        await call(cache, issued)
        network.fall_silent()
        await revoke(pool, issued)
        took_s = await assert_refused_within_promise(cache, issued)

        assert took_s > 0.2  # from memory at first: the poll had just been answered
        assert not cache.is_trusted
        network.speak_again()


async def test_a_listening_connection_that_was_lost_track_of_is_replaced(
    pool: Pool, database_url: str, issued: IssuedKey
) -> None:
    async with Network(database_url) as network, running(pool, network.url) as cache:
        network.lose_track()

        async def has_reconnected() -> bool:
            return network.connections == 2 and cache.is_trusted

        await until(has_reconnected)
        await call(cache, issued)
        await revoke(pool, issued)
        await assert_refused_within_promise(cache, issued)


async def test_a_worker_cut_off_from_the_database_soon_serves_nobody_and_then_recovers(
    pool: Pool, database_url: str, issued: IssuedKey
) -> None:
    async with Network(database_url) as network:
        own_pool = await open_pool(network.url, 2, "aiaas-test-cut-off")
        async with running(own_pool, network.url, lookup_timeout_s=0.3) as cache:
            await call(cache, issued)
            network.fall_silent()
            await revoke(pool, issued)

            async def is_unavailable() -> bool:
                try:
                    await call(cache, issued)
                except UnavailableError:
                    return True
                return False

            # The last success is what counts: the refusal itself takes its 0.3 s.
            assert await until(is_unavailable) - 0.3 < PROMISE_S
            assert await is_unavailable()

            network.speak_again()

            async def is_refused_as_revoked() -> bool:
                try:
                    return await is_refused(cache, issued)
                except UnavailableError:
                    return False

            await until(is_refused_as_revoked, timeout_s=5)
        await own_pool.close()


async def test_a_fill_that_a_revocation_overtook_is_not_kept(
    pool: Pool, database_url: str, tenant_id: str, issued: IssuedKey
) -> None:
    async with Network(database_url) as network:
        slow_pool = await open_pool(network.url, 2, "aiaas-test-slow")
        async with running(slow_pool, database_url) as cache:
            marker = await api_keys.create_key(pool, tenant_id)
            await call(cache, marker)

            network.fall_silent_after(b"secret_sha256")
            overtaken = asyncio.create_task(call(cache, issued))

            async def query_was_sent() -> bool:
                return network.is_silent

            async def marker_was_dropped() -> bool:
                return len(cache) == 0

            await until(query_was_sent)
            await answered_by_server(pool)
            await revoke(pool, issued)
            await revoke(pool, marker)
            await until(marker_was_dropped)  # so the announcement before it was taken too
            network.speak_again()

            assert (await overtaken).revoked_at is None  # read before, and young: it may count
            assert await is_refused(cache, issued)
        await slow_pool.close()


async def answered_by_server(pool: Pool) -> None:
    """Wait until the query on the slow connection was carried out, its answer still under way."""

    async def is_idle() -> bool:
        async with pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'aiaas-test-slow' "
                "AND datname = current_database() AND query LIKE '%%secret_sha256%%' AND state = 'idle'"
            )
            return await cursor.fetchone() == (1,)

    await until(is_idle)


async def insert_key_with_text(pool: Pool, tenant_id: str, key_id: str, text: str) -> None:
    async with pool.connection() as connection:
        await store.insert_key(
            connection,
            tenant_id,
            key_id=key_id,
            name="",
            mode="live",
            secret_sha256=keys.digest(text),
            scopes=["asr"],
            allowed_networks=[],
            expires_at=None,
        )


@pytest.mark.parametrize("announced", [True, False])
async def test_a_new_key_works_at_once_even_if_it_was_unknown_a_moment_ago(
    pool: Pool, database_url: str, tenant_id: str, announced: bool
) -> None:
    if not announced:
        await replace_announcement(pool, "UPDATE tenants.key_epoch SET epoch = epoch + 1;")
    key_id, text = keys.new_key("live")
    async with running(pool, database_url) as cache:
        assert await cache.lookup(keys.digest(text)) is None
        await insert_key_with_text(pool, tenant_id, key_id, text)

        async def is_known() -> bool:
            return await cache.lookup(keys.digest(text)) is not None

        assert await until(is_known) < PROMISE_S


async def test_a_new_key_leaves_the_others_in_memory(
    pool: Pool, database_url: str, tenant_id: str, issued: IssuedKey
) -> None:
    async with running(pool, database_url) as cache:
        await call(cache, issued)
        before = queries(pool)
        for _ in range(20):
            new = await api_keys.create_key(pool, tenant_id)
            await call(cache, new)
            await call(cache, issued)

        # One for each key made, one for its first call, and hardly any for the key that was known: a
        # poll may overtake a notification now and then, and empty the cache.
        assert queries(pool) - before <= 43


async def test_one_unknown_key_sent_again_and_again_is_one_query(pool: Pool, database_url: str) -> None:
    async with running(pool, database_url) as cache:
        before = queries(pool)
        for _ in range(500):
            assert await cache.lookup(b"\0" * 32) is None

        assert queries(pool) == before + 1


async def test_a_flood_of_invented_keys_stays_bounded_in_memory_and_queries(
    pool: Pool, database_url: str, issued: IssuedKey
) -> None:
    invented = 100_000
    async with running(pool, database_url, max_keys=500) as cache:
        await call(cache, issued)
        before = queries(pool)
        for _ in range(invented // 1000):
            found = await asyncio.gather(*(cache.lookup(secrets.token_bytes(32)) for _ in range(1000)))
            assert found == [None] * 1000
            assert len(cache) <= 501
        assert queries(pool) - before <= invented // 200

        before = queries(pool)
        await call(cache, issued)  # the real key was not pushed out
        assert queries(pool) == before


async def test_too_many_look_ups_at_one_moment_are_refused_at_once(pool: Pool, database_url: str) -> None:
    async with running(pool, database_url) as cache:
        outcomes = await asyncio.gather(
            *(cache.lookup(secrets.token_bytes(32)) for _ in range(3000)), return_exceptions=True
        )

        assert outcomes.count(None) == 1024
        assert sum(isinstance(outcome, UnavailableError) for outcome in outcomes) == 3000 - 1024


async def code_of(cache: KeyCache, text: str | None, address: str | None = "127.0.0.1") -> str:
    try:
        await authenticate(cache, text, address, datetime.now(UTC))
    except DomainError as error:
        return "key echoed" if text and text in f"{error} {error.args}" else error.code
    return "ok"


async def test_each_refusal_has_its_code_in_the_right_order(
    pool: Pool, database_url: str, tenant_id: str
) -> None:
    async def text_of(sql: str | None = None, networks: tuple[str, ...] = ()) -> str:
        issued = await api_keys.create_key(pool, tenant_id, allowed_networks=networks)
        if sql:
            async with pool.connection() as connection:
                await connection.execute(
                    f"UPDATE tenants.api_key SET {sql} WHERE key_id = %s".encode(), [issued.api_key.key_id]
                )
        return issued.text.reveal()

    async with running(pool, database_url) as cache:
        good = await text_of()
        before = queries(pool)
        assert await code_of(cache, None) == "missing_api_key"
        assert await code_of(cache, "") == "missing_api_key"
        assert await code_of(cache, "sk-something-else") == "malformed_api_key"
        assert await code_of(cache, good[:-1] + ("a" if good[-1] != "a" else "b")) == "malformed_api_key"
        assert queries(pool) == before  # garbage costs no look-up
        assert await code_of(cache, good) == "ok"
        assert await code_of(cache, keys.new_key("test")[1]) == "unknown_api_key"
        assert await code_of(cache, await text_of("expires_at = now()")) == "expired_api_key"
        assert await code_of(cache, await text_of("revoked_at = now()")) == "revoked_api_key"
        both = await text_of("revoked_at = now(), expires_at = now()", ("10.0.0.0/8",))
        assert await code_of(cache, both) == "revoked_api_key"
        expired_elsewhere = await text_of("expires_at = now()", ("10.0.0.0/8",))
        assert await code_of(cache, expired_elsewhere) == "expired_api_key"


async def test_a_key_with_networks_is_used_from_within_them_alone(
    pool: Pool, database_url: str, tenant_id: str
) -> None:
    issued = await api_keys.create_key(pool, tenant_id, allowed_networks=["10.1.0.0/16", "2001:db8::/32"])
    text = issued.text.reveal()
    async with running(pool, database_url) as cache:
        for inside in ("10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1"):
            assert await code_of(cache, text, inside) == "ok"
        for outside in ("10.2.0.1", "::ffff:10.2.0.1", "2001:db9::1", "", None, "unix:/socket", "10.1.2"):
            assert await code_of(cache, text, outside) == "address_not_allowed"


async def test_a_key_that_expires_is_refused_from_that_moment_on(
    pool: Pool, database_url: str, tenant_id: str
) -> None:
    expires_at = datetime.now(UTC) + timedelta(hours=1)
    issued = await api_keys.create_key(pool, tenant_id, expires_at=expires_at)
    async with running(pool, database_url) as cache:
        just_before = expires_at - timedelta(microseconds=1)
        await authenticate(cache, issued.text.reveal(), None, just_before)
        with pytest.raises(DomainError) as refused:
            await authenticate(cache, issued.text.reveal(), None, expires_at)
        assert refused.value.code == "expired_api_key"


async def test_a_rotated_key_works_through_its_grace_and_its_successor_at_once(
    pool: Pool, database_url: str, issued: IssuedKey
) -> None:
    async with running(pool, database_url) as cache:
        await call(cache, issued)
        successor = await api_keys.rotate_key(
            pool, issued.api_key.tenant_id, issued.api_key.key_id, timedelta(minutes=10)
        )
        await call(cache, successor)

        async def grace_is_known() -> bool:
            return (await call(cache, issued)).expires_at is not None

        assert await until(grace_is_known) < PROMISE_S
        after_grace = datetime.now(UTC) + timedelta(minutes=10, seconds=1)
        with pytest.raises(DomainError) as refused:
            await authenticate(cache, issued.text.reveal(), None, after_grace)
        assert refused.value.code == "expired_api_key"
        await authenticate(cache, successor.text.reveal(), None, after_grace)
