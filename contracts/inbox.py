"""What has come for a stream and is not taken yet."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from contracts.connection import ChannelLostError
from contracts.errors import SlowConsumerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiormq.abc import DeliveredMessage

#: Messages that may wait to be taken; a stream with more of them is closed.
MAX_WAITING = 10_000


class Inbox:
    """A bounded queue of messages that ends when its channel is lost.

    Args:
        overflow: called once when it is full.
    """

    def __init__(self, overflow: Callable[[], None]) -> None:
        self._messages: deque[DeliveredMessage] = deque()
        self._arrived = asyncio.Event()
        self._overflow = overflow
        self._is_full = False
        self._is_lost = False

    def put(self, message: DeliveredMessage | None) -> None:
        """Add a message, or None for the end of the channel."""
        if self._is_full:
            return
        if message is None:
            self._is_lost = True
        elif len(self._messages) < MAX_WAITING:
            self._messages.append(message)
        else:
            self._is_full = True
            self._messages.clear()
            self._overflow()
        self._arrived.set()

    async def get(self) -> DeliveredMessage:
        """Take the next message.

        Raises:
            ChannelLostError: there is none, and none will come.
            SlowConsumerError: there were too many.
        """
        while not self._messages:
            if self._is_full:
                raise SlowConsumerError(f"more than {MAX_WAITING} chunks came that were not taken")
            if self._is_lost:
                raise ChannelLostError
            self._arrived.clear()
            await self._arrived.wait()
        return self._messages.popleft()
