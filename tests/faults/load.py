"""Load: many clients at once, on an event loop in a thread of its own, until they are told to stop."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from random import Random

from tests.faults.client import ATTEMPT_TIMEOUT_S, Client, Customer, mixed_call
from tests.faults.journal import Ended, Journal
from tests.stack import wait_until

Step = Callable[[Client], Awaitable[bool]]
"""What a client does over and over; False when it is done."""

_PAUSE_AFTER_FAILURE_S = 0.2
_UNDER_WAY_TIMEOUT_S = 5.0


class Load:
    """Clients at work while the block lasts; afterwards each finishes what it has in hand.

    The block begins when about everyone has been answered once.

    Args:
        steps: one for each client.
        name: unique within the round; what a client draws depends on it and on the client's place alone.
    """

    def __init__(self, url: Callable[[], str], journal: Journal, steps: Sequence[Step], name: str) -> None:
        self._url = url
        self._journal = journal
        self._steps = steps
        self._name = name
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Load":
        enough = self._journal.answered + len(self._steps)
        self._thread.start()
        wait_until(lambda: self.is_done or self._journal.answered >= enough, _UNDER_WAY_TIMEOUT_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.wait()

    @property
    def is_done(self) -> bool:
        """Whether every client is done, or told to stop and has stopped."""
        return not self._thread.is_alive()

    def wait(self, timeout_s: float = 2 * ATTEMPT_TIMEOUT_S) -> None:
        """Wait until every client is done."""
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), "clients did not end in time"
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            asyncio.run(self._run_clients())
        except BaseException as error:
            self._failure = error

    async def _run_clients(self) -> None:
        async with asyncio.TaskGroup() as clients:
            for place, step in enumerate(self._steps):
                clients.create_task(self._run_client(place, step))

    async def _run_client(self, place: int, step: Step) -> None:
        name = f"{self._name} {place}"
        client = Client(name, self._url, self._journal, Random(name))
        try:
            while not self._stop.is_set() and await step(client):
                pass
        finally:
            await client.close()


def mixed(customers: Sequence[Customer]) -> Step:
    """Calls of all kinds by several tenants, one after the other."""

    async def step(client: Client) -> bool:
        await pause_after(await client.send(client.rng.choice(customers), mixed_call(client.rng)))
        return True

    return step


async def pause_after(ended: Ended) -> None:
    """A client that was not answered does not try again at once."""
    if ended.outcome != "answered":
        await asyncio.sleep(_PAUSE_AFTER_FAILURE_S)
