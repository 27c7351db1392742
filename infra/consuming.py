"""What a service consumes: each queue kept consumed, and a list of those that should be and are not."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, cast

import structlog
from aio_pika.abc import AbstractRobustConnection
from aiormq import Channel

from contracts.consumer_channels import ConsumerChannels, Receive
from contracts.queue_consumer import PASSING, QueueConsumer, said_of
from infra.background_tasks import BackgroundTasks
from infra.broker import restore_topology, try_topology
from infra.consumer_trials import ConsumerTrials
from infra.outgoing_frames import OutgoingFrames
from infra.queue_declaration import DeclaredQueue, declare_queue, open_channel

if TYPE_CHECKING:
    from aio_pika import RobustConnection

log = structlog.get_logger()

#: Queues that are declared at the same time, so that a thousand of them leave room for what else is asked.
MOST_DECLARED = 8
#: Seconds between two looks whether a queue of the topology is gone.
TOPOLOGY_EVERY_S = 5.0
#: Troubles are gathered for so long, in seconds: a lost connection is one line, and not one for each queue.
TELL_AFTER_S = 0.2
#: How long writing the last acknowledgements may take, in seconds.
FLUSH_TIMEOUT_S = 5.0
#: Queues that such a line names.
MOST_NAMED = 10


@dataclass(frozen=True, slots=True)
class NotConsumed:
    """A queue that should be consumed and is not.

    Attributes:
        kind: what its messages are for, such as `requests`; few values.
        queue: its name.
        reason: of the last try, in RabbitMQ's own words where it gave some.
    """

    kind: str
    queue: str
    reason: str


class Consuming:
    """Consumes a service's queues on its connection."""

    def __init__(self, connection: AbstractRobustConnection) -> None:
        self._connection = connection
        self._tasks = BackgroundTasks("consuming")
        self._declaring = asyncio.Semaphore(MOST_DECLARED)
        self._trials = ConsumerTrials(cast("RobustConnection", connection).url)
        self._running: dict[QueueConsumer, tuple[str, asyncio.Task[None]]] = {}
        self._kinds: set[str] = set()
        self._channels: list[ConsumerChannels] = []
        self._restoring: asyncio.Task[None] | None = None
        #: Queues whose trouble is still to be told, by kind and reason.
        self._untold: dict[tuple[str, str], list[str]] = {}

    @property
    def is_connected(self) -> bool:
        """Whether the connection to RabbitMQ is there."""
        return self._connection.connected.is_set()

    @property
    def kinds(self) -> Sequence[str]:
        """Kinds of queues that were consumed so far."""
        return sorted(self._kinds)

    @property
    def not_consumed(self) -> Sequence[NotConsumed]:
        """The queues that should be consumed now and are not."""
        return [
            NotConsumed(kind, consumer.queue, consumer.trouble)
            for consumer, (kind, _) in self._running.items()
            if consumer.trouble is not None
        ]

    def channels(self) -> ConsumerChannels:
        """Channels for consumers that share them."""
        channels = ConsumerChannels(partial(open_channel, self._connection))
        self._channels.append(channels)
        return channels

    def consume(
        self,
        kind: str,
        queue: DeclaredQueue,
        receive: Receive,
        *,
        prefetch: int | None,
        channels: ConsumerChannels | None = None,
        no_ack: bool = False,
        with_topology: bool = False,
    ) -> QueueConsumer:
        """Keep a queue consumed from now on, until `end`.

        Args:
            kind: what its messages are for; one of a few words.
            queue: it is declared whenever it may be missing.
            receive: see `QueueConsumer`.
            prefetch: messages that are sent ahead of their acknowledgements; None: it is paused.
            channels: that others use, too; None: it gets its own.
            no_ack: whether messages count as acknowledged when they are sent.
            with_topology: whether to declare the rest of the topology with it, and to look every
                `TOPOLOGY_EVERY_S` whether a part of it is gone. Each process has a queue of which this is so:
                whoever finds a broker rebuilt restores what is there for all.
        """
        consumer = QueueConsumer(
            queue.name,
            channels=channels or self.channels(),
            declare=partial(self._declare, queue, with_topology=with_topology),
            prove=partial(self._trials.consume, queue.name),
            receive=receive,
            prefetch=prefetch,
            no_ack=no_ack,
            note=partial(self._note, kind, queue.name),
        )
        self._kinds.add(kind)
        self._running[consumer] = kind, self._tasks.keep(queue.name, consumer.run)
        if with_topology and self._restoring is None:
            self._restoring = self._tasks.every(
                TOPOLOGY_EVERY_S, "topology", partial(self._restore, consumer), passes=PASSING
            )
        return consumer

    async def end(self, consumer: QueueConsumer) -> None:
        """Consume a queue no longer; what was delivered may still be acknowledged."""
        is_stopped = await consumer.end()
        _, task = self._running.pop(consumer)
        if is_stopped:
            task.cancel()
            await asyncio.wait([task])

    async def close(self) -> None:
        """Consume nothing any more, and have all acknowledgements written."""
        await asyncio.gather(*(self.end(consumer) for consumer in list(self._running)))
        await self._tasks.close()
        await self._trials.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                for channel in chain.from_iterable(self._channels):
                    await OutgoingFrames.of(cast("Channel", channel)).flush()

    async def _restore(self, consumer: QueueConsumer) -> None:
        await consumer.tried.wait()
        await restore_topology(self._connection)

    async def _declare(self, queue: DeclaredQueue, *, with_topology: bool) -> None:
        async with self._declaring:
            if with_topology:
                for name, reason in (await try_topology(self._connection)).items():
                    log.warning("queue_not_declared", queue=name, reason=reason)
            await declare_queue(self._connection, queue)

    def _note(self, kind: str, queue: str, error: Exception) -> None:
        if not self._untold:
            asyncio.get_running_loop().call_later(TELL_AFTER_S, self._tell)
        self._untold.setdefault((kind, said_of(error)), []).append(queue)

    def _tell(self) -> None:
        untold, self._untold = self._untold, {}
        for (kind, reason), queues in untold.items():
            log.warning(
                "queues_not_consumed", kind=kind, reason=reason, count=len(queues), queues=queues[:MOST_NAMED]
            )
