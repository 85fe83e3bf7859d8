"""Work that comes piece by piece, done in batches."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from serving.watched import WatchedThreads

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batches(Generic[Item, Answer]):
    """Gathers what waits into batches for a function that blocks.

    While a batch is in hand, what comes waits and makes up the next one. A batch that fails is done again
    piece by piece, so that one bad piece fails alone; one that hangs is not. Use it on one event loop; who
    submits bounds the queue.

    Args:
        work: one answer per item, in the order given.
        threads: where it runs, one batch at a time.
        largest: the most items in a batch.
        wait_s: how long the first item waits for company.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Answer]],
        threads: WatchedThreads,
        largest: int,
        wait_s: float,
    ) -> None:
        self._work = work
        self._threads = threads
        self._largest = largest
        self._wait_s = wait_s
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._pump: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Answer:
        """The answer to one item. Who is cancelled before its batch begins costs nothing.

        Raises: what `work` raises for it.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._run())
        return await answer

    async def _run(self) -> None:
        while self._waiting:
            if len(self._waiting) < self._largest:
                await asyncio.sleep(self._wait_s)
            await self._do(self._next_batch())

    def _next_batch(self) -> list[tuple[Item, asyncio.Future[Answer]]]:
        batch: list[tuple[Item, asyncio.Future[Answer]]] = []
        while self._waiting and len(batch) < self._largest:
            item, answer = self._waiting.popleft()
            if not answer.done():  # else its caller went away
                batch.append((item, answer))
        return batch

    async def _do(self, batch: list[tuple[Item, asyncio.Future[Answer]]]) -> None:
        batch = [(item, answer) for item, answer in batch if not answer.done()]
        items = [item for item, _ in batch]
        if not items:
            return
        try:
            answers = await self._threads.run(self._work, items)
            answered = list(zip(batch, answers, strict=True))
        except Exception as error:
            await self._fail(batch, error)
        else:
            for (_, answer), value in answered:
                if not answer.done():
                    answer.set_result(value)

    async def _fail(self, batch: list[tuple[Item, asyncio.Future[Answer]]], error: Exception) -> None:
        if len(batch) > 1 and not isinstance(error, TimeoutError):
            for single in batch:
                await self._do([single])
            return
        for _, answer in batch:
            if not answer.done():
                answer.set_exception(error)
