"""A channel that publishes requests and hears their answers; direct reply-to wants both on the same one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiormq.exceptions import (
    ChannelAccessRefused,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    DeliveryError,
)
from pamqp.commands import Basic

from contracts import names
from contracts.connection import BROKER_TIMEOUT_S, RETRY_S, ChannelLostError, close, on_channel
from contracts.errors import PublishError
from contracts.retrying import retrying

if TYPE_CHECKING:
    from collections.abc import Callable

    from aio_pika import Message
    from aiormq.abc import AbstractChannel, DeliveredMessage

    from contracts.connection import BrokerConnection

    #: Called with each message for a correlation id, and with None when the channel is lost.
    Listener = Callable[[DeliveredMessage | None], None]

#: Refusals that close the channel, with every publish that is under way on it.
CLOSING_REFUSALS = (ChannelAccessRefused, ChannelNotFoundEntity, ChannelPreconditionFailed)


@dataclass(frozen=True, slots=True)
class Destination:
    """Where messages go, and what it means when no queue takes them."""

    exchange: str
    routing_key: str
    missing: str

    @classmethod
    def lane(cls, automation_id: str) -> Destination:
        """The automation's requests."""
        return cls(names.REQUESTS_EXCHANGE, automation_id, f"there is no automation {automation_id}")

    @classmethod
    def leases(cls, automation_id: str) -> Destination:
        """The automation's direct key requests."""
        missing = f"automation {automation_id} has no queue for direct keys"
        return cls(names.REQUESTS_EXCHANGE, f"leases.{automation_id}", missing)

    @classmethod
    def event(cls, message_type: str, automation_id: str) -> Destination:
        """An event of the automation."""
        routing_key = names.event_routing_key(message_type, automation_id)
        return cls(names.EVENTS_EXCHANGE, routing_key, f"nothing takes messages of type {message_type}")


class RefusedPublishError(Exception):
    """The broker closed the channel over a publish: this one, or another that was under way with it."""


class ReplyChannel:
    """A channel and who listens on it; when the channel is lost, every listener is told once."""

    def __init__(self, channel: AbstractChannel) -> None:
        self._channel = channel
        self._listeners: dict[str, Listener] = {}
        #: What is being published, by message id: the driver tells returned messages apart by nothing else.
        self._publishing: dict[str, asyncio.Future[None]] = {}
        channel.closing.add_done_callback(self._on_closed)

    @classmethod
    async def open(cls, connection: BrokerConnection) -> ReplyChannel:
        """Open a channel and listen.

        Raises:
            ClientClosedError: the client is closed.
        """

        async def open_one() -> ReplyChannel:
            opened = cls(await connection.channel())
            try:
                await on_channel(
                    opened._channel.basic_consume(
                        names.DIRECT_REPLY_TO, opened._on_message, no_ack=True, timeout=BROKER_TIMEOUT_S
                    )
                )
            except BaseException:
                await asyncio.shield(opened.close())
                raise
            return opened

        return await retrying(open_one, passes=(ChannelLostError,), pause_s=RETRY_S, longest_pause_s=RETRY_S)

    @property
    def is_lost(self) -> bool:
        """Whether it is closed, by whomever."""
        return self._channel.is_closed

    def listen(self, correlation_id: str, listener: Listener) -> None:
        """Hand what comes for a correlation id to a listener."""
        self._listeners[correlation_id] = listener

    def forget(self, correlation_id: str) -> None:
        """Drop what still comes for a correlation id."""
        self._listeners.pop(correlation_id, None)

    async def ask(self, message: Message, destination: Destination) -> DeliveredMessage:
        """Publish a request and wait for its one answer.

        Raises:
            ChannelLostError: the channel that the answer would have come on is gone.
            RefusedPublishError: see `publish`.
            PublishError: see `publish`.
        """
        reply: asyncio.Future[DeliveredMessage | None] = asyncio.get_running_loop().create_future()

        def settle(answer: DeliveredMessage | None) -> None:
            if not reply.done():
                reply.set_result(answer)

        correlation_id = message.correlation_id or ""
        self.listen(correlation_id, settle)
        try:
            await self.publish(message, destination)
            answer = await reply
        finally:
            self.forget(correlation_id)
        if answer is None:
            raise ChannelLostError
        return answer

    async def publish(self, message: Message, destination: Destination) -> None:
        """Publish until the broker confirms, after any other message with the same id.

        Raises:
            ChannelLostError: the channel went away; the broker may have the message.
            RefusedPublishError: the broker closed the channel over this publish or another.
            PublishError: no queue takes the message, or the queue is full.
        """
        message_id = message.message_id or ""
        while (earlier := self._publishing.get(message_id)) is not None:
            await asyncio.wait([earlier])
        over = self._publishing[message_id] = asyncio.get_running_loop().create_future()
        try:
            while not await on_channel(self._is_confirmed(message, destination)):
                pass
        finally:
            del self._publishing[message_id]
            over.set_result(None)

    async def _is_confirmed(self, message: Message, destination: Destination) -> bool:
        """Publish once; false: the broker says nothing, which may be since it blocks publishers."""
        try:
            await self._channel.basic_publish(
                message.body,
                exchange=destination.exchange,
                routing_key=destination.routing_key,
                properties=message.properties,
                mandatory=True,
                timeout=BROKER_TIMEOUT_S,
            )
        except DeliveryError as error:
            if isinstance(error.frame, Basic.Nack):
                raise PublishError(
                    f"the queue of {destination.routing_key} is full; try again later"
                ) from None
            raise PublishError(destination.missing) from None
        except CLOSING_REFUSALS as error:
            raise RefusedPublishError(refusal(error, destination)) from None
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Close the channel; workers see that nobody listens at its address any more."""
        await close(self._channel)

    async def _on_message(self, message: DeliveredMessage) -> None:
        if listener := self._listeners.get(message.header.properties.correlation_id or ""):
            listener(message)

    def _on_closed(self, _: object) -> None:
        listeners, self._listeners = self._listeners, {}
        for listener in listeners.values():
            listener(None)


def refusal(error: Exception, destination: Destination) -> str:
    """What a refusal that closed the channel says, for who published."""
    if isinstance(error, ChannelAccessRefused):
        return f"this user may not publish to {destination.routing_key}"
    if isinstance(error, ChannelNotFoundEntity):
        return f"RabbitMQ has no exchange {destination.exchange} in this vhost"
    return f"RabbitMQ refuses the message: {error.args[0] if error.args else type(error).__name__}"
