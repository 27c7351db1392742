"""Tries again what may pass, with a pause that grows: the project's one retry loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, stop_never, wait_exponential_jitter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tenacity import RetryCallState

T = TypeVar("T")

#: The longest pause between two tries, in seconds.
LONGEST_PAUSE_S = 30.0


async def retrying(
    operation: Callable[[], Awaitable[T]],
    *,
    passes: tuple[type[Exception], ...] | Callable[[Exception], bool],
    pause_s: float,
    longest_pause_s: float | None = None,
    give_up_after_s: float | None = None,
    note: Callable[[Exception], None] | None = None,
) -> T:
    """Await an operation until it succeeds.

    A first try that succeeds costs nothing beside the operation, so this may stand on the hot path.

    Args:
        operation: called for each try.
        passes: the errors that may pass, or what says of one whether it may; any other is raised at once.
        pause_s: the pause after the first failure, in seconds, with up to a quarter of jitter. Each further
            pause is twice as long.
        longest_pause_s: the longest pause, in seconds; as long as `pause_s`, it keeps pauses from growing.
        give_up_after_s: how long after the first failure to stop trying, in seconds; None: never.
        note: called with each error that is followed by another try, to log it.

    Returns:
        What the operation returned.

    Raises:
        Exception: an error that does not pass, or the last one after `give_up_after_s`.
    """

    def may_pass(error: BaseException) -> bool:
        if not isinstance(error, Exception) or _is_cancelled():
            return False
        return isinstance(error, passes) if isinstance(passes, tuple) else passes(error)

    try:
        return await operation()
    except Exception as error:
        if not may_pass(error):
            raise
        failed: Exception | None = error

    async def attempt() -> T:
        nonlocal failed
        if failed is not None:
            first, failed = failed, None
            raise first
        return await operation()

    def before_sleep(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if note is not None and isinstance(error, Exception):
            note(error)

    longest_s = max(pause_s, LONGEST_PAUSE_S) if longest_pause_s is None else longest_pause_s
    retry = AsyncRetrying(
        retry=retry_if_exception(may_pass),
        wait=wait_exponential_jitter(multiplier=pause_s, max=longest_s, jitter=pause_s / 4),
        stop=stop_never if give_up_after_s is None else stop_after_delay(give_up_after_s),
        before_sleep=before_sleep,
        reraise=True,
    )
    return await retry(attempt)


def _is_cancelled() -> bool:
    """Whether somebody cancels this task: a driver may have turned that into an error of its own."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
