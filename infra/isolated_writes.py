"""Writes items together, and apart where one of them can't be written."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from infra.mongo_errors import may_pass

Item = TypeVar("Item")
Answer = TypeVar("Answer")


async def write_isolated(
    write: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]], items: Sequence[Item]
) -> list[Answer | Exception]:
    """Write items together; where that fails for good, in halves, until what can't be written stands alone.

    Args:
        write: writes items together, and returns an answer for each, in their order. Where it raises an error
            that does not pass, it is called again with a part of the items: so that must be safe for those
            that were written before it raised.
        items: at least one.

    Returns:
        An answer for each item, in their order: `write`'s own, or the error that it raised. An error that
        may pass (`infra.mongo_errors.may_pass`) is that of all that were written together, any other an
        item's own.
    """
    try:
        answers = await write(items)
    except Exception as error:  # noqa: BLE001  # it is the answer
        if len(items) == 1 or may_pass(error):
            return [error] * len(items)
        half = len(items) // 2
        return [*await write_isolated(write, items[:half]), *await write_isolated(write, items[half:])]
    if len(answers) != len(items):
        return [ValueError(f"{len(answers)} answers to {len(items)} items")] * len(items)
    return list(answers)
