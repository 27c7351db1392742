"""Background tasks of a process: each has an owner, which restarts it or stops the service.

Nothing else in `infra` and `workers` may call `asyncio.create_task` for work that outlives its caller (a test
looks). What a caller starts and awaits itself stays in an `asyncio.TaskGroup` or beside its `await`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

import structlog

T = TypeVar("T")

log = structlog.get_logger()

#: The pause before a loop that failed runs again, in seconds; it doubles while the loop fails at once.
RESTART_S = 1.0
LONGEST_RESTART_S = 30.0
#: A loop that ran for so long before it failed begins again with the shortest pause, in seconds.
STEADY_S = 60.0


class BackgroundTasks:
    """Owns tasks from their start to `close`, and says in one log line when one fails."""

    def __init__(self, owner: str) -> None:
        """Make an owner without tasks.

        Args:
            owner: the name of what the tasks belong to, for the log, such as `lanes`.
        """
        self._owner = owner
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        """How many tasks run."""
        return len(self._tasks)

    def keep(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        """Run a loop until `close`; where it raises, log `task_restarted` and run it again after a pause.

        A loop that returns has ended in order and is not run again.

        Args:
            name: of the task, for the log and for debuggers.
            run: makes the loop's coroutine, each time that it starts.
        """
        return self._own(asyncio.create_task(self._restarted(name, run), name=f"{self._owner} {name}"))

    def every(
        self,
        pause_s: float,
        name: str,
        work: Callable[[], Awaitable[object]],
        *,
        passes: tuple[type[Exception], ...],
    ) -> asyncio.Task[None]:
        """Do something now and after each pause, until `close`.

        Args:
            pause_s: from the end of one turn to the next, in seconds.
            name: of the task, for the log and for debuggers.
            work: one turn.
            passes: the errors that may pass; each is logged as `task_delayed`; the next turn tries again.
                At any other the task is run again as by `keep`.
        """
        return self.keep(name, partial(self._repeated, pause_s, name, work, passes))

    def start(self, name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run something once; where it raises, log `task_failed`.

        Args:
            name: of the task, for the log and for debuggers.
            work: the coroutine.

        Returns:
            The task, to await or to cancel; nobody needs to.
        """
        task = self._own(asyncio.create_task(work, name=f"{self._owner} {name}"))
        task.add_done_callback(self._log_failure)
        return task

    async def drain(self) -> None:
        """Wait until every task that was started so far has ended; loops that are kept never do."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Cancel every task and wait until all have ended."""
        while self._tasks:
            ending = list(self._tasks)
            for task in ending:
                task.cancel()
            await asyncio.wait(ending)

    def _own(self, task: asyncio.Task[T]) -> asyncio.Task[T]:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _log_failure(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task_failed", task=task.get_name(), exc_info=error)

    async def _repeated(
        self,
        pause_s: float,
        name: str,
        work: Callable[[], Awaitable[object]],
        passes: tuple[type[Exception], ...],
    ) -> None:
        while True:
            try:
                await work()
            except passes as error:
                log.warning(
                    "task_delayed",
                    task=f"{self._owner} {name}",
                    error=type(error).__name__,
                    retry_in_s=pause_s,
                )
            await asyncio.sleep(pause_s)

    async def _restarted(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        loop = asyncio.get_running_loop()
        pause_s = RESTART_S
        while True:
            started = loop.time()
            try:
                await run()
            except Exception:
                if loop.time() - started >= STEADY_S:
                    pause_s = RESTART_S
                log.exception("task_restarted", task=f"{self._owner} {name}", restart_in_s=pause_s)
            else:
                return
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_RESTART_S)
