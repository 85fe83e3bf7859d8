"""Whatever is lost, late or raced: the cache never believes what was untrue for longer than its trust."""

from collections import deque

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from tenants.cached_keys import TRUST_S, UNSURE, CachedKeys
from tenants.records import KeyRecord, PlanLimits

DIGESTS = [bytes([number]) * 32 for number in range(4)]
digests = st.sampled_from(DIGESTS)
MAX_KEYS = 3


class Worker(RuleBasedStateMachine):
    """A database with a history, and a worker that hears of it by luck."""

    polls = Bundle("polls")
    queries = Bundle("queries")

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 100.0
        self.epoch = 0
        self.versions = 0
        # digest -> (since when, what it was), oldest first
        self.history: dict[bytes, list[tuple[float, KeyRecord | None]]] = {
            digest: [(0.0, None)] for digest in DIGESTS
        }
        self.announcements: deque[tuple[int, bytes | None]] = deque()
        self.cached = CachedKeys(MAX_KEYS)

    @rule(by_s=st.sampled_from([0.01, 0.25, 0.5, 1.0]))
    def time_passes(self, by_s: float) -> None:
        self.now_s += by_s

    @rule(digest=digests, gone=st.booleans())
    def key_changes(self, digest: bytes, gone: bool) -> None:
        self.versions += 1
        self.epoch += 1
        record = None if gone else KeyRecord(f"key_{self.versions}", "ten", frozenset(), (), None, None)
        self.history[digest].append((self.now_s, record))
        self.announcements.append((self.epoch, digest))

    @rule()
    def limits_of_all_keys_change(self) -> None:
        self.versions += 1
        self.epoch += 1
        for history in self.history.values():
            record = history[-1][1]
            if record is not None:
                changed = msgspec.structs.replace(record, limits=PlanLimits(self.versions))
                history.append((self.now_s, changed))
        self.announcements.append((self.epoch, None))

    @rule()
    def announcement_arrives(self) -> None:
        if self.announcements:
            self.cached.changed(*self.announcements.popleft())

    @rule()
    def announcement_is_lost(self) -> None:
        if self.announcements:
            self.announcements.popleft()

    @rule(target=polls)
    def poll_is_sent(self) -> tuple[int, float]:
        return self.epoch, self.now_s

    @rule(poll=consumes(polls))
    def poll_is_answered(self, poll: tuple[int, float]) -> None:
        self.cached.confirmed(*poll)

    @rule(target=queries, digest=digests)
    def query_is_sent(self, digest: bytes) -> tuple[bytes, KeyRecord | None, int]:
        return digest, self.history[digest][-1][1], self.cached.generation

    @rule(query=consumes(queries))
    def query_is_answered(self, query: tuple[bytes, KeyRecord | None, int]) -> None:
        self.cached.fill(*query, self.now_s)

    @rule(digest=digests)
    def poll_and_query_go_well(self, digest: bytes) -> None:
        """The usual case, so that the cache is seldom empty."""
        self.poll_is_answered((self.epoch, self.now_s))
        self.query_is_answered(self.query_is_sent(digest))

    @invariant()
    def what_it_says_was_true_a_moment_ago(self) -> None:
        for digest in DIGESTS:
            known = self.cached.get(digest, self.now_s)
            if known is not UNSURE:
                assert known in self.true_within_trust(digest)

    @invariant()
    def it_is_bounded(self) -> None:
        assert len(self.cached) <= 2 * MAX_KEYS

    def true_within_trust(self, digest: bytes) -> list[KeyRecord | None]:
        oldest_s = self.now_s - TRUST_S
        history = self.history[digest]
        ends_s = [since_s for since_s, _ in history[1:]] + [float("inf")]
        return [record for (_, record), end_s in zip(history, ends_s, strict=True) if end_s >= oldest_s]


TestNothingStaleIsBelieved = Worker.TestCase
TestNothingStaleIsBelieved.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
