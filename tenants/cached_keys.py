"""The keys a worker holds in memory, and the rule by which it may believe them. No I/O.

Each change of a key moves the database's *epoch* by one, in its own transaction, and is announced with
its epoch and digest; a change of a plan's limits, or of a tenant's plan or placement, which travel with the
keys, moves it by one too and is announced without a digest. The cache follows the epoch two ways:

- `changed` takes an announcement. The one next in line drops its digest alone, or everything where it
  names none; one that comes after a gap drops everything, since something between was missed.
- `confirmed` takes the epoch that a poll read. Any other than the one known drops everything.

Entries are believed for `TRUST_S` after a successful poll was *sent*, so an answer from here is never
older than that, whatever was lost on the way. A query that was under way when anything changed may have
read the state before: it carries the generation from before it was sent, and is not kept if that moved.
"""

from collections import OrderedDict
from enum import Enum

from tenants.records import KeyRecord

TRUST_S = 0.9  # promise: a revoked key is refused within one second
MISSING_TRUST_S = 5.0


class Unsure(Enum):
    """The cache cannot say: the database must be asked."""

    UNSURE = "unsure"


UNSURE = Unsure.UNSURE


class CachedKeys:
    """At most `max_keys` keys and as many digests known to belong to none; the least used go first.

    The two are apart so that a flood of invented keys cannot push out the real ones. Times are monotonic
    seconds, given by the caller.
    """

    def __init__(self, max_keys: int) -> None:
        self._max_keys = max_keys
        self._found: OrderedDict[bytes, KeyRecord] = OrderedDict()
        self._missing: OrderedDict[bytes, float] = OrderedDict()  # digest -> believed until
        self._trusted_until_s = float("-inf")
        self._epoch: int | None = None
        self._generation = 0

    @property
    def generation(self) -> int:
        """Moves whenever something was dropped; to be read before a query is sent."""
        return self._generation

    def __len__(self) -> int:
        return len(self._found) + len(self._missing)

    def is_trusted(self, now_s: float) -> bool:
        """Whether the last successful poll is young enough."""
        return now_s < self._trusted_until_s

    def get(self, digest: bytes, now_s: float) -> KeyRecord | Unsure | None:
        """The key of a digest, None where there is no such key, UNSURE where the database must be asked."""
        if now_s >= self._trusted_until_s:
            return UNSURE
        record = self._found.get(digest)
        if record is not None:
            self._found.move_to_end(digest)
            return record
        believed_until_s = self._missing.get(digest)
        return None if believed_until_s is not None and now_s < believed_until_s else UNSURE

    def fill(self, digest: bytes, record: KeyRecord | None, generation: int, now_s: float) -> None:
        """Keep what a query found, unless something changed since `generation` was read."""
        if generation != self._generation:
            return
        self._drop(digest)
        if record is None:
            self._missing[digest] = now_s + MISSING_TRUST_S
            if len(self._missing) > self._max_keys:
                self._missing.popitem(last=False)
        else:
            self._found[digest] = record
            if len(self._found) > self._max_keys:
                self._found.popitem(last=False)

    def changed(self, epoch: int, digest: bytes | None) -> None:
        """A change was announced: of one key, or of any number of them where `digest` is None."""
        if digest is None or (self._epoch is not None and epoch > self._epoch + 1):
            self._clear()
        if digest is not None:
            self._drop(digest)
        self._generation += 1
        if self._epoch is not None:
            self._epoch = max(self._epoch, epoch)

    def confirmed(self, epoch: int, sent_at_s: float) -> None:
        """A poll that was sent at `sent_at_s` read this epoch."""
        if epoch != self._epoch:
            self._clear()
            self._epoch = epoch
        self._trusted_until_s = sent_at_s + TRUST_S

    def _drop(self, digest: bytes) -> None:
        self._found.pop(digest, None)
        self._missing.pop(digest, None)

    def _clear(self) -> None:
        self._found.clear()
        self._missing.clear()
        self._generation += 1
