"""Keeps a queue consumed: the one way in which Keyway consumes.

A queue that was deleted, a consumer that the broker cancelled, a lost channel or connection and a rebuilt,
empty broker are ordinary events here: the queue is declared and consumed again, after a pause that grows
while that fails. Two rules keep one queue's trouble from others. A queue is declared on a channel of its own,
which may be lost. And it is proved, where others could be harmed, before it is consumed beside them: RabbitMQ
closes the channel of a consumer that it refuses, and may close a connection over one that it can't start.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol

from aiormq.exceptions import AMQPChannelError

from contracts.connection import ChannelLostError
from contracts.consumer_channels import ConsumerCancelledError
from contracts.retrying import retrying

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiormq.abc import AbstractConnection

    from contracts.consumer_channels import ConsumerChannel, ConsumerChannels, Receive

#: The pause after a queue could not be consumed, in seconds; it doubles up to the longest.
PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0
#: A consumer that ends sooner counts as one that could not be started, in seconds.
STEADY_S = 5.0
#: How long RabbitMQ may take to stop a consumer, in seconds.
CANCEL_TIMEOUT_S = 5.0
#: What may pass by itself or by an operator's hand.
PASSING = (ChannelLostError, ConsumerCancelledError, ConnectionError, TimeoutError)
NOT_YET = "it was not consumed yet"


def may_pass(error: Exception) -> bool:
    """Whether an error may pass by itself or by an operator's hand."""
    return isinstance(error, PASSING)


class Prove(Protocol):
    """Finds out, where that harms no other queue, whether RabbitMQ would start a consumer of a queue."""

    async def __call__(self, *, is_doubtful: bool) -> None:
        """Raise what may pass if it would not.

        Args:
            is_doubtful: whether RabbitMQ did not start the last one.

        Raises:
            ChannelLostError: the broker refuses, does not answer, or is away.
            TimeoutError: likewise.
        """


class _Consumption:
    """One consumer, from its start to its end."""

    __slots__ = ("channel", "over", "prefetch", "tag")

    def __init__(self, channel: ConsumerChannel, prefetch: int) -> None:
        self.channel = channel
        self.prefetch = prefetch
        self.tag = f"keyway-{secrets.token_hex(8)}"
        self.over: Exception | None = None


class QueueConsumer:
    """Consumes one queue for as long as `run` runs.

    Attributes:
        queue: its name.
        trouble: why the queue is not consumed although it should be; None: it is, or is paused.
        tried: set when the first try to consume it has ended, either way.

    Args:
        queue: its name.
        channels: where it is consumed.
        declare: makes the queue if it is not there. It raises `ChannelLostError` or `TimeoutError` where that
            may pass, and uses no channel that others use.
        prove: called before the queue's first consumer on a connection, and after one that failed; None: the
            queue shares nothing with others.
        receive: called with the channel before each consumer is started. After a broker's cancel that is the
            same channel as before, on which what was delivered may still be acknowledged.
        prefetch: messages that the broker sends ahead of their acknowledgements; None: it is paused.
        no_ack: whether messages count as acknowledged when they are sent.
        passes: says of an error whether to try again; `run` raises one that does not pass.
        note: called with the reason each time that the queue could not be consumed, or is no longer.
    """

    def __init__(
        self,
        queue: str,
        *,
        channels: ConsumerChannels,
        declare: Callable[[], Awaitable[None]],
        prove: Prove | None = None,
        receive: Receive,
        prefetch: int | None,
        no_ack: bool = False,
        passes: Callable[[Exception], bool] = may_pass,
        note: Callable[[Exception], None] | None = None,
    ) -> None:
        self.queue = queue
        self.trouble: str | None = None if prefetch is None else NOT_YET
        self.tried = asyncio.Event()
        self._channels = channels
        self._declare = declare
        self._prove = prove
        self._receive = receive
        self._prefetch = prefetch
        self._no_ack = no_ack
        self._passes = passes
        self._note = note
        self._current: _Consumption | None = None
        self._is_declared = False
        self._proved_on: AbstractConnection | None = None
        self._is_doubtful = False
        self._is_ending = False
        self._changed = asyncio.Event()
        self._stopped = asyncio.Event()
        self._stopped.set()

    @property
    def is_consuming(self) -> bool:
        """Whether the broker has a consumer of it now."""
        return self._current is not None and self._current.over is None

    @property
    def is_paused(self) -> bool:
        """Whether it should not be consumed now."""
        return self._prefetch is None

    def use(self, prefetch: int) -> None:
        """Consume with another prefetch, or again after a pause; `run` sees to it."""
        if prefetch != self._prefetch:
            self._prefetch = prefetch
            self._changed.set()

    async def pause(self) -> bool:
        """Stop consuming until `use`.

        Returns:
            Whether RabbitMQ has stopped the consumer. If not, messages may still come for a while.
        """
        self._prefetch = self.trouble = None
        self._is_declared = False
        self.tried.set()
        self._changed.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(CANCEL_TIMEOUT_S):
                await self._stopped.wait()
        return self._stopped.is_set()

    async def end(self) -> bool:
        """Stop consuming for good: `run` returns once RabbitMQ has stopped the consumer.

        Returns:
            Whether it has. Only then `run` may be cancelled: a cancelled request closes its channel.
        """
        self._is_ending = True
        return await self.pause()

    async def run(self) -> None:
        """Keep the queue consumed until `end`.

        Raises:
            Exception: what does not pass.
        """
        while True:
            self._changed.clear()
            current = self._current
            if current is not None and current.over is None:
                if current.prefetch != self._prefetch:
                    await self._cancel(current)
                    continue
                await self._changed.wait()
                if current.over is not None:
                    self._tell(current.over)
            elif self._is_ending:
                return
            elif self._prefetch is None:
                self.tried.set()
                await self._changed.wait()
            else:
                await retrying(
                    self._consume,
                    passes=self._passes,
                    pause_s=PAUSE_S,
                    longest_pause_s=LONGEST_PAUSE_S,
                    note=self._on_failure,
                )

    async def _consume(self) -> None:
        """Start a consumer, and see that it stays.

        Raises:
            ChannelLostError: the broker refuses, or is away.
            ConsumerCancelledError: the broker ended it again.
        """
        self._changed.clear()
        prefetch = self._prefetch
        if prefetch is None:
            return
        if not self._is_declared:
            await self._declare()
        channel = await self._channels.get(prefetch)
        try:
            started = await self._start(channel, prefetch)
        except ChannelLostError as error:
            self._is_doubtful |= isinstance(error.__cause__, AMQPChannelError | TimeoutError)
            raise
        if started is None:
            return
        self._is_doubtful = False
        if started.over is None:
            self._is_declared = True
            self.trouble = None
        self.tried.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(STEADY_S):
                await self._changed.wait()
        if started.over is not None:
            raise started.over

    async def _start(self, channel: ConsumerChannel, prefetch: int) -> _Consumption | None:
        """Prove the queue where that is due, and start a consumer.

        Returns:
            The consumer; None where another prefetch is wanted meanwhile.

        Raises:
            ChannelLostError: the broker refuses, does not answer, or is away.
        """
        if self._prove is not None and self._proved_on is not channel.channel.connection:
            await self._prove(is_doubtful=self._is_doubtful)
            self._proved_on = channel.channel.connection
        if prefetch != self._prefetch:
            return None
        self._stopped.clear()
        started = self._current = _Consumption(channel, prefetch)
        try:
            await channel.consume(
                self.queue,
                started.tag,
                self._receive(channel.channel),
                partial(self._on_end, started),
                no_ack=self._no_ack,
            )
        except BaseException as error:
            self._proved_on = None
            self._on_end(started, error)
            raise
        return started

    async def _cancel(self, current: _Consumption) -> None:
        try:
            async with asyncio.timeout(CANCEL_TIMEOUT_S):
                await current.channel.cancel(current.tag)
        except ChannelLostError as error:
            self._on_end(current, error)
        except TimeoutError as error:
            # Others' changes of the channel came first and the consumer goes on, or the channel was closed.
            self._tell(error)
        else:
            self._current = None
            self._stopped.set()

    def _on_end(self, consumption: _Consumption, reason: BaseException) -> None:
        if consumption is self._current and consumption.over is None:
            consumption.over = reason if isinstance(reason, Exception) else ChannelLostError("cancelled")
            self._is_declared = False
            self.trouble = None if self._prefetch is None else said_of(consumption.over)
            self._stopped.set()
            self._changed.set()

    def _on_failure(self, error: Exception) -> None:
        self._is_declared = False
        self.trouble = None if self._prefetch is None else said_of(error)
        self.tried.set()
        self._tell(error)

    def _tell(self, error: Exception) -> None:
        if self._note is not None:
            self._note(error)


def said_of(error: Exception) -> str:
    """What an error says of why a queue is not consumed: the broker's own words, where it gave some."""
    cause = error.__cause__ or error
    return (
        f"{type(cause).__name__}: {cause.args[0]}" if cause.args and cause.args[0] else type(cause).__name__
    )
