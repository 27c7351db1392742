"""Publishing with confirms where each microsecond counts: straight to aiormq's channel, below aio-pika.

What a confirm or a returned message means is aiormq's to say: it is told of each publish in its channel's
public register, and answers there. What it does beside that for each publish is left out: locks, futures that
everybody watches, a write of its own and the wait for that (decision 0029).
"""

import asyncio
import secrets
from functools import lru_cache
from itertools import count

import pamqp.frame
from aio_pika.abc import AbstractRobustChannel
from aiormq import Channel
from aiormq.channel import Returning
from aiormq.exceptions import ChannelInvalidStateError
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from infra.outgoing_frames import OutgoingFrames
from infra.underlay_channel import underlay

#: How long a confirm may take, in seconds.
CONFIRM_TIMEOUT_S = 30.0
#: Addresses whose frames are remembered.
MOST_ADDRESSES = 1024


class ConfirmedPublishing:
    """Publishes on a channel of its own, which nothing else publishes on.

    A returned message is known by its message id: two of a channel that are under way have different ones.
    """

    def __init__(self, channel: AbstractRobustChannel) -> None:
        """Take a channel with confirms whose returned messages raise."""
        self._channel = channel
        self._open: tuple[Channel, OutgoingFrames] | None = None
        self._ids = (f"{secrets.token_hex(8)}-{number}" for number in count())

    async def publish(
        self, body: bytes, properties: Basic.Properties, *, exchange: str, routing_key: str, mandatory: bool
    ) -> None:
        """Publish once, and wait for the broker's confirm.

        Args:
            body: of the message.
            properties: of the message; it is given an id where it has none.
            exchange: that takes it; `""` is the default exchange.
            routing_key: where to.
            mandatory: whether it is an error that no queue takes it.

        Raises:
            DeliveryError: the broker refuses it, or no queue takes it.
            AMQPError: the channel is gone; nobody knows whether it has arrived.
            TimeoutError: no confirm came; nobody knows either.
        """
        opened = self._open
        if opened is None or opened[0].is_closed:
            opened = await self._opened()
        channel, outgoing = opened
        message_id = properties.message_id = properties.message_id or next(self._ids)
        address = _address(channel.number, exchange, routing_key, mandatory)
        outgoing.send(channel, _frames(channel, body, properties, address))
        loop = asyncio.get_running_loop()
        confirm: asyncio.Future[object] = loop.create_future()
        channel.delivery_tag = tag = channel.delivery_tag + 1
        channel.confirmations[tag] = confirm
        channel.message_id_delivery_tag[message_id] = tag
        timer = loop.call_later(CONFIRM_TIMEOUT_S, _fail, confirm, TimeoutError)
        try:
            await confirm
        finally:
            timer.cancel()
            if channel.message_id_delivery_tag.get(message_id) == tag:
                del channel.message_id_delivery_tag[message_id]

    async def _opened(self) -> tuple[Channel, OutgoingFrames]:
        """The channel of the connection that there is now."""
        channel = await underlay(self._channel)
        channel.closing.add_done_callback(lambda _: _fail_all(channel))
        self._open = channel, OutgoingFrames.of(channel)
        return self._open


def _fail_all(channel: Channel) -> None:
    """End what a closed channel will not confirm."""
    for confirm in channel.confirmations.values():
        if not isinstance(confirm, Returning):
            _fail(confirm, ChannelInvalidStateError)


def _fail(confirm: "asyncio.Future[object]", error: type[Exception]) -> None:
    if not confirm.done():
        confirm.set_exception(error("not confirmed"))


@lru_cache(MOST_ADDRESSES)
def _address(channel: int, exchange: str, routing_key: str, mandatory: bool) -> bytes:  # noqa: FBT001
    frame = Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=mandatory)
    return pamqp.frame.marshal(frame, channel)


def _frames(channel: Channel, body: bytes, properties: Basic.Properties, address: bytes) -> bytes:
    header = ContentHeader(body_size=len(body), properties=properties)
    frames = [address, pamqp.frame.marshal(header, channel.number)]
    for start in range(0, len(body), channel.max_content_size):
        part = ContentBody(body[start : start + channel.max_content_size])
        frames.append(pamqp.frame.marshal(part, channel.number))
    return b"".join(frames)
