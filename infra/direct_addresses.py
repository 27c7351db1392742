"""Addresses of RabbitMQ's direct reply-to: whether somebody is there, asked where it does no harm.

An address is opaque, and anybody may make one up. RabbitMQ 3.10 closes the connection of who names one that
it can't decode: so a new one is named first on a connection apart (decision 0012). An automation whose
address cost that connection has to wait before its next new one is named, so that others' are.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import cast

from aio_pika.abc import AbstractRobustConnection
from aiormq import Channel
from aiormq.exceptions import AMQPError, ChannelInvalidStateError, ChannelNotFoundEntity
from pamqp.commands import Queue

from contracts import names
from contracts.retrying import retrying

#: Addresses that are remembered as made up, and as not made up; the oldest of each are forgotten.
MOST_KNOWN = 10_000
#: How long RabbitMQ may take to answer, in seconds.
LOOK_TIMEOUT_S = 5.0
#: Seconds between two tries to open a channel while the connection is away.
NOTICED_S = 0.2
#: How long an automation waits after a look that failed, in seconds; twice as long after each further one.
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
#: How long after its pause an automation's failures are forgotten, in seconds.
FORGIVEN_S = 600.0
#: More failures than these are not counted.
MOST_COUNTED = 10
#: Looks that fail, after which an address is taken for made up; RabbitMQ may have been away at the first.
MOST_LOOKS = 2
#: What a look may fail of.
UNANSWERED = (AMQPError, ChannelInvalidStateError, ConnectionError, RuntimeError, TimeoutError)


def is_direct(address: str) -> bool:
    """Whether a reply goes to a direct address, not to a queue."""
    return address.startswith(names.DIRECT_REPLY_TO)


class NotLookedForError(ConnectionError):
    """The automation's addresses cost the connection before, and it is not yet time for its next one."""


@dataclass(frozen=True, slots=True)
class _Pause:
    """Until when an automation waits, on the monotonic clock, and how many addresses it has made up."""

    until: float
    failures: int


class DirectAddresses:
    """The direct addresses that a process replies to."""

    def __init__(self, apart: AbstractRobustConnection) -> None:
        """Take the connection that a made-up address may cost."""
        self._apart = apart
        self._channel: Channel | None = None
        self._looking = asyncio.Lock()
        self._proved: dict[str, None] = {}
        #: How many looks for an address have failed; the oldest are forgotten.
        self._failed: dict[str, int] = {}
        #: One for each automation some of whose looks failed: as many as an operator adds, at most.
        self._pauses: dict[str, _Pause] = {}

    def is_proved(self, address: str) -> bool:
        """Whether RabbitMQ has decoded the address before, so that it may be named on any connection."""
        return address in self._proved

    async def is_there(self, address: str, automation_id: str) -> bool:
        """Ask whether somebody listens, by declaring it passively (RabbitMQ's guide "Direct Reply-to").

        For an address that failed before it is not asked again, and nobody listens.

        Args:
            address: a direct address.
            automation_id: whose request named it.

        Raises:
            NotLookedForError: the automation has to wait, since its last address cost the connection.
            TimeoutError: no answer came.
            AMQPError: RabbitMQ is away, or closed the connection over this address.
        """
        # Cancelled in the moment in which RabbitMQ closes the channel, aiormq would write to it once more,
        # and RabbitMQ would close the connection.
        found = await asyncio.shield(self._look(address, automation_id))
        if isinstance(found, Exception):
            raise found
        return found

    async def _look(self, address: str, automation_id: str) -> bool | Exception:
        """Look, whoever waits for it still: what it fails of is its answer."""
        try:
            return await self._ask(address, automation_id)
        except UNANSWERED as error:
            return error

    async def _ask(self, address: str, automation_id: str) -> bool:
        async with self._looking:
            if self._failed.get(address, 0) >= MOST_LOOKS:
                return False
            if self._has_to_wait(address, automation_id):
                raise NotLookedForError
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                # What another's address has cost is not this one's failure.
                channel = await retrying(
                    self._opened, passes=UNANSWERED, pause_s=NOTICED_S, longest_pause_s=NOTICED_S
                )
                # aiormq counts a channel as open for a while after RabbitMQ has closed it.
                self._channel = None
                try:
                    found = await self._declared(channel, address)
                except UNANSWERED:
                    self._note_failure(address, automation_id)
                    raise
                if found:
                    self._channel = channel
        self._proved[address] = None
        if len(self._proved) > MOST_KNOWN:
            del self._proved[next(iter(self._proved))]
        return found

    def _has_to_wait(self, address: str, automation_id: str) -> bool:
        pause = self._pauses.get(automation_id)
        return pause is not None and time.monotonic() < pause.until and not self.is_proved(address)

    def _note_failure(self, address: str, automation_id: str) -> None:
        """Have the automation wait; the longer, the more of its addresses have failed of late."""
        looks = self._failed.pop(address, 0) + 1
        self._failed[address] = looks
        if len(self._failed) > MOST_KNOWN:
            del self._failed[next(iter(self._failed))]
        now, last = time.monotonic(), self._pauses.get(automation_id)
        failures = 0 if last is None or now > last.until + FORGIVEN_S else last.failures
        length_s = FIRST_PAUSE_S if looks > 1 else min(FIRST_PAUSE_S * 2**failures, LONGEST_PAUSE_S)
        most = 0 if last is None else last.until
        self._pauses[automation_id] = _Pause(
            max(most, now + length_s), min(failures + (looks == 1), MOST_COUNTED)
        )

    async def _opened(self) -> Channel:
        """The channel for looks; a new one after a look that found nobody, for which RabbitMQ closes it.

        It is none of aio-pika's, which would open it again by itself, under the number of the next.
        """
        if self._channel is None or self._channel.is_closed:
            await self._apart.ready()
            if self._apart.transport is None:
                raise ConnectionError("the connection is not there")
            opened = await self._apart.transport.connection.channel(publisher_confirms=False)
            self._channel = cast("Channel", opened)
        return self._channel

    async def _declared(self, channel: Channel, address: str) -> bool:
        try:
            await channel.rpc(_DeclareAddress(queue=address, passive=True))
        except ChannelNotFoundEntity:
            return False
        return True


class _DeclareAddress(Queue.Declare):
    """Names a direct address, whose characters pamqp expects in no queue's name."""

    def validate(self) -> None:
        """Leave it to the broker."""
