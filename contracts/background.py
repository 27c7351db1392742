"""Tasks that outlive their caller, and who owns them until they end."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")
log = logging.getLogger("keyway")


class Background:
    """Owns tasks until they end or it is closed; one that fails is logged."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run something.

        Args:
            name: of the task, for the log and for debuggers.
            work: the coroutine.

        Returns:
            The task, to await or to cancel; nobody needs to.
        """
        task = asyncio.create_task(work, name=f"keyway {name}")
        self._tasks.add(task)
        task.add_done_callback(self._end)
        return task

    async def drain(self) -> None:
        """Wait until all that was started has ended."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Cancel all that runs, and wait until it has ended."""
        for task in self._tasks:
            task.cancel()
        await self.drain()

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)
