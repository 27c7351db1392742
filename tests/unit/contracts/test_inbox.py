"""What waits to be taken: in order, bounded, and over when the channel is lost."""

import asyncio
from typing import Any, cast

import pytest

from contracts import inbox
from contracts.connection import ChannelLostError
from contracts.errors import SlowConsumerError
from contracts.inbox import Inbox


def message(number: int) -> Any:
    return cast("Any", number)


async def test_messages_are_taken_in_order_and_waited_for() -> None:
    box = Inbox(lambda: None)
    waiting = asyncio.ensure_future(box.get())
    await asyncio.sleep(0)
    assert not waiting.done()
    box.put(message(1))
    box.put(message(2))
    assert await waiting == message(1)
    assert await box.get() == message(2)


async def test_what_came_before_the_channel_was_lost_is_taken_first() -> None:
    box = Inbox(lambda: None)
    box.put(message(1))
    box.put(None)
    assert await box.get() == message(1)
    with pytest.raises(ChannelLostError):
        await box.get()


async def test_a_waiting_taker_hears_that_the_channel_is_lost() -> None:
    box = Inbox(lambda: None)
    waiting = asyncio.ensure_future(box.get())
    await asyncio.sleep(0)
    box.put(None)
    with pytest.raises(ChannelLostError):
        await waiting


async def test_too_many_are_dropped_and_it_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "MAX_WAITING", 3)
    overflows: list[None] = []
    box = Inbox(lambda: overflows.append(None))
    for number in range(10):
        box.put(message(number))
    box.put(None)
    assert len(overflows) == 1
    with pytest.raises(SlowConsumerError, match="more than 3 chunks"):
        await box.get()
