"""One channel on which each publish gets its own confirm or its own return: below aio-pika (decision 0029).

What a confirm means is aiormq's to say: it is told of each publish in its channel's public register, and
answers there. A returned message it knows by the message id alone, which publishers choose; here the exchange
and the routing key belong to it too, and at most one publish of all three is under way (decision 0038).
"""

import asyncio
from functools import lru_cache

import pamqp.frame
from aiormq import Channel
from aiormq.channel import Returning
from aiormq.exceptions import ChannelInvalidStateError
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from infra.outgoing_frames import OutgoingFrames

#: Addresses whose frames are remembered.
MOST_ADDRESSES = 1024
#: The delivery tag of a publish that was given up: RabbitMQ's begin with 1.
NO_TAG = 0


class ConfirmedChannel:
    """Publishes on a channel that nothing else publishes on."""

    def __init__(self, channel: Channel, *, one_by_one: bool = False) -> None:
        """Make it.

        Args:
            channel: aiormq's, with confirms and with returned messages that raise.
            one_by_one: whether a publish begins only when the one before is over, so that a message may be
                written in portions.
        """
        self._channel = channel
        self._one_by_one = one_by_one
        self._outgoing = OutgoingFrames.of(channel)
        self._returnable = _Returnable(channel)
        channel.closing.add_done_callback(self._fail_all)

    @property
    def is_closed(self) -> bool:
        """Whether it is closed, by whomever."""
        return self._channel.is_closed

    @property
    def refusal(self) -> BaseException | None:
        """Why RabbitMQ closed it; None where it did not."""
        closing = self._channel.closing
        return closing.exception() if closing.done() and not closing.cancelled() else None

    async def publish(
        self,
        body: bytes,
        properties: Basic.Properties,
        *,
        exchange: str,
        routing_key: str,
        mandatory: bool,
        timeout_s: float,
    ) -> None:
        """Publish once, and wait for the broker's confirm.

        Args:
            body: of the message.
            properties: of the message, with an id.
            exchange: that takes it; `""` is the default exchange.
            routing_key: where to.
            mandatory: whether it is an error that no queue takes it.
            timeout_s: how long the confirm may take, in seconds.

        Raises:
            DeliveryError: the broker refuses it, or no queue takes it.
            ChannelInvalidStateError: the channel is gone; nobody knows whether it has arrived.
            TimeoutError: no confirm came; nobody knows either.
            ValueError: the properties can't be sent.
        """
        channel, under_way = self._channel, self._returnable.under_way
        key = (exchange, routing_key, properties.message_id)
        while mandatory and (earlier := under_way.get(key)) is not None:
            await asyncio.wait([earlier[1]])
        address = _address(channel.number, exchange, routing_key, mandatory)
        header = _header(channel, body, properties)
        if self._one_by_one:
            self._outgoing.send_at_leisure(channel, [address + header, *_bodies(channel, body)])
        else:
            self._outgoing.send(channel, b"".join([address, header, *_bodies(channel, body)]))
        loop = asyncio.get_running_loop()
        confirm: asyncio.Future[object] = loop.create_future()
        channel.delivery_tag = tag = channel.delivery_tag + 1
        channel.confirmations[tag] = confirm
        if mandatory:
            under_way[key] = tag, confirm
        timer = loop.call_later(timeout_s, _fail, confirm, TimeoutError)
        try:
            await confirm
        finally:
            timer.cancel()
            if mandatory:
                del under_way[key]

    async def close(self) -> None:
        """Close it once all is written that was sent: a message that breaks off would cost the connection."""
        await self._outgoing.flush()
        await self._channel.close()

    def _fail_all(self, _: object) -> None:
        """End what a closed channel will not confirm."""
        for confirm in self._channel.confirmations.values():
            if not isinstance(confirm, Returning):
                _fail(confirm, ChannelInvalidStateError)


class _Returnable(dict[str, int]):
    """aiormq's register of what may be returned, which finds it by where it was sent, too."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self.under_way: dict[tuple[str, str, str | None], tuple[int, asyncio.Future[object]]] = {}
        self._returned_from = ("", "")
        self._read = channel._on_return_frame  # noqa: SLF001  # aiormq tells where from nowhere else in time
        channel._on_return_frame = self._on_return  # type: ignore[method-assign]  # noqa: SLF001  # as above
        channel.message_id_delivery_tag = self

    async def _on_return(self, frame: Basic.Return) -> None:
        # One task reads a channel's frames, one after another.
        self._returned_from = frame.exchange, frame.routing_key or ""
        await self._read(frame)

    def get(self, message_id: str, _: int | None = None) -> int:  # type: ignore[override]
        """The delivery tag of the publish that comes back; one that nobody has where nobody waits for it."""
        tag, confirm = self.under_way.get((*self._returned_from, message_id), (NO_TAG, None))
        return NO_TAG if confirm is None or confirm.done() else tag


def _fail(confirm: "asyncio.Future[object]", error: type[Exception]) -> None:
    if not confirm.done():
        confirm.set_exception(error("not confirmed"))


@lru_cache(MOST_ADDRESSES)
def _address(channel: int, exchange: str, routing_key: str, mandatory: bool) -> bytes:  # noqa: FBT001
    frame = Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=mandatory)
    return pamqp.frame.marshal(frame, channel)


def _header(channel: Channel, body: bytes, properties: Basic.Properties) -> bytes:
    """The frame of the properties.

    Raises:
        ValueError: they do not fit into one, for which RabbitMQ would close the connection.
    """
    header = pamqp.frame.marshal(ContentHeader(body_size=len(body), properties=properties), channel.number)
    if len(header) > channel.max_content_size:
        raise ValueError(f"the message's properties have {len(header)} bytes, and a frame has less")
    return header


def _bodies(channel: Channel, body: bytes) -> list[bytes]:
    size = channel.max_content_size
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return [pamqp.frame.marshal(ContentBody(part), channel.number) for part in parts]
