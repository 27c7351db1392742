"""Group commit: what arrives while one write is under way is written together by the next.

A lone item is written at once, unless nobody waits for it. While many arrive together, a write waits a few
milliseconds for more, so that a busy process pays a small part of a write for each; PostgreSQL does the same
(`commit_delay`, only with `commit_siblings`). The idea is as old (DeWitt et al., "Implementation Techniques
for Main Memory Database Systems", 1984).

An item that can't be written harms no other: `infra.isolated_writes`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeAlias, TypeVar

from infra.background_tasks import BackgroundTasks
from infra.isolated_writes import write_isolated

#: A write waits for more when the one before had so many items.
BUSY = 4

Item = TypeVar("Item")
Answer = TypeVar("Answer")
#: An item, and whom its answer is told to.
Waiting: TypeAlias = tuple[Item, asyncio.Future[Answer]]


class Gathering:
    """Waits for more items, but not for long, where many came before."""

    def __init__(self, enough: int, gather_s: float, patience_s: float = 0.0) -> None:
        """Take how many items are waited for, and how long: while many come, and else, in seconds."""
        self._enough = enough
        self._gather_s = gather_s
        self._patience_s = patience_s
        self._are_enough = asyncio.Event()

    def came(self, waiting: int) -> None:
        """Note that so many items wait."""
        if waiting >= self._enough:
            self._are_enough.set()

    def hurry(self) -> None:
        """Wait for nothing more this time."""
        self._are_enough.set()

    async def more(self, waiting: int, before: int) -> None:
        """Wait until enough are there, for longer if the batch before had many.

        Args:
            waiting: how many wait already.
            before: how many the batch before had.
        """
        wait_s = self._gather_s if before >= BUSY else self._patience_s
        if not wait_s or waiting >= self._enough:
            return
        self._are_enough.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._are_enough.wait()


class GroupCommit(Generic[Item, Answer]):
    """Gathers items while `write` is busy with those before them."""

    def __init__(
        self,
        write: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception]]],
        *,
        max_batch: int = 500,
        enough: int = 32,
        gather_s: float = 0.01,
        patience_s: float = 0.0,
    ) -> None:
        """Take the write.

        Args:
            write: writes items together (`infra.isolated_writes` says how); an error as an item's answer is
                raised to the one who waits for it.
            max_batch: the most items that it is given at a time.
            enough: how many a busy write waits for.
            gather_s: and how long, in seconds.
            patience_s: how long one waits that is not busy, unless an item is in a hurry.
        """
        self._write = write
        self._max_batch = max_batch
        self._gathering = Gathering(enough, gather_s, patience_s)
        self._waiting: list[Waiting[Item, Answer]] = []
        self._tasks = BackgroundTasks("group_commit")
        self._writer: asyncio.Task[None] | None = None
        self._is_busy = False
        self._is_hurried = False

    def submit(self, item: Item, *, hurry: bool = False) -> asyncio.Future[Answer]:
        """Have an item written with the next batch.

        Args:
            item: to be written.
            hurry: whether it is written at once by a process that is not busy, however patient.

        Returns:
            Its answer, to await; it raises what `write` raised for it: an error that may pass with all of
            its batch, any other alone.
        """
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._gathering.came(len(self._waiting))
        if hurry and not self._is_busy:
            self._hurry()
        if self._writer is None:
            self._writer = self._tasks.start("write", self._run())
        return future

    async def drain(self) -> None:
        """Wait until everything that was submitted is written."""
        while self._writer is not None:
            self._hurry()
            await asyncio.wait([self._writer])

    def _hurry(self) -> None:
        self._is_hurried = True
        self._gathering.hurry()

    async def _run(self) -> None:
        try:
            written = 0
            while self._waiting:
                if not self._is_hurried:
                    await self._gathering.more(len(self._waiting), written)
                self._is_hurried = False
                batch, self._waiting = self._waiting[: self._max_batch], self._waiting[self._max_batch :]
                self._is_busy = len(batch) >= BUSY
                await self._write_batch(batch)
                written = len(batch)
        finally:
            self._writer = None
            self._is_busy = self._is_hurried = False

    async def _write_batch(self, batch: list[Waiting[Item, Answer]]) -> None:
        try:
            answers = await write_isolated(self._write, [item for item, _ in batch])
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
