"""Direct keys over HTTP: the same messages as over RabbitMQ, published for the automation."""

import asyncio
import secrets

from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractIncomingMessage, AbstractRobustConnection
from aiormq.exceptions import AMQPError, ChannelInvalidStateError, DeliveryError
from pydantic import ValidationError

from contracts import names
from contracts.messages import GenerationResult, KeyLease, KeyLeaseRequest, ResultError, UsageReported
from infra.errors import BrokerError, PlatformError
from infra.mongo import Mongo

#: How long a lease may be waited for, in seconds: a leasing worker waits for room for 10 s at the most.
LEASE_TIMEOUT_S = 20.0
#: How long a confirm may take, in seconds.
CONFIRM_TIMEOUT_S = 10.0


class LeaseRefusedError(PlatformError):
    """No key is lent.

    Attributes:
        error: why, as the leasing worker answers.
        retry_after_s: when to ask again, in seconds; None: asking again is of no use.
    """

    def __init__(self, error: ResultError, retry_after_s: int | None) -> None:
        super().__init__(error.message)
        self.error = error
        self.retry_after_s = retry_after_s


class NoLeasingError(PlatformError):
    """Nobody answers requests for direct keys."""


class DirectKeys:
    """Asks for keys and reports what was spent on them, for automations that were let in."""

    def __init__(self, connection: AbstractRobustConnection, mongo: Mongo) -> None:
        """Take a connection that may publish with any routing key, and the database."""
        self._connection = connection
        self._mongo = mongo

    async def lease(self, automation_id: str, request: KeyLeaseRequest) -> KeyLease:
        """Ask for a key.

        Raises:
            LeaseRefusedError: none is lent.
            NoLeasingError: no leasing worker answers.
            BrokerError: RabbitMQ can't be reached.
            PyMongoError: MongoDB can't be asked when the one that is refused may come again.
        """
        try:
            async with asyncio.timeout(LEASE_TIMEOUT_S):
                answer = await self._ask(automation_id, request)
        except DeliveryError:
            raise NoLeasingError("there is no queue for direct keys: no leasing worker has run yet") from None
        except TimeoutError:
            raise NoLeasingError(f"no leasing worker answered within {LEASE_TIMEOUT_S:g} s") from None
        except (AMQPError, ChannelInvalidStateError, ConnectionError, RuntimeError) as error:
            raise BrokerError(f"no connection to RabbitMQ ({type(error).__name__})") from None
        lease = _lease(answer)
        if isinstance(lease, KeyLease):
            return lease
        if lease.retry_at is None:
            raise LeaseRefusedError(lease, None)
        wait = lease.retry_at - await self._mongo.server_time()
        raise LeaseRefusedError(lease, max(1, round(wait.total_seconds())))

    async def report(self, automation_id: str, report: UsageReported) -> None:
        """Report what was spent on a leased key; it is booked once by its `report_id`.

        Raises:
            BrokerError: RabbitMQ can't be reached, or did not confirm.
        """
        message = Message(
            report.model_dump_json().encode(),
            content_type="application/json",
            type=names.USAGE_REPORTED,
            message_id=report.report_id,
            delivery_mode=DeliveryMode.PERSISTENT,
        )
        routing_key = names.event_routing_key(names.USAGE_REPORTED, automation_id)
        try:
            await self._connection.ready()
            async with self._connection.channel(on_return_raises=True) as channel:
                events = await channel.get_exchange(names.EVENTS_EXCHANGE, ensure=False)
                await events.publish(message, routing_key, timeout=CONFIRM_TIMEOUT_S)
        except (AMQPError, ChannelInvalidStateError, OSError, RuntimeError, TimeoutError) as error:
            raise BrokerError(f"RabbitMQ did not confirm the report ({type(error).__name__})") from None

    async def _ask(self, automation_id: str, request: KeyLeaseRequest) -> AbstractIncomingMessage:
        """Publish a request and wait for its answer, on a channel of its own, as direct reply-to wants it."""
        answer: asyncio.Future[AbstractIncomingMessage] = asyncio.get_running_loop().create_future()

        async def take(message: AbstractIncomingMessage) -> None:
            if not answer.done():
                answer.set_result(message)

        await self._connection.ready()
        async with self._connection.channel(on_return_raises=True) as channel:
            replies = await channel.get_queue(names.DIRECT_REPLY_TO, ensure=False)
            await replies.consume(take, no_ack=True)
            request_id = f"http-{secrets.token_hex(12)}"
            message = Message(
                request.model_dump_json().encode(),
                content_type="application/json",
                type=names.KEY_LEASE_REQUEST,
                message_id=request_id,
                correlation_id=request_id,
                reply_to=names.DIRECT_REPLY_TO,
                expiration=LEASE_TIMEOUT_S,
            )
            requests = await channel.get_exchange(names.REQUESTS_EXCHANGE, ensure=False)
            await requests.publish(message, names.lease_queue(automation_id), timeout=CONFIRM_TIMEOUT_S)
            return await answer


def _lease(answer: AbstractIncomingMessage) -> KeyLease | ResultError:
    """Read an answer: a lease, or why there is none.

    Raises:
        NoLeasingError: it is nothing that a leasing worker answers.
    """
    try:
        if answer.type == names.KEY_LEASE:
            return KeyLease.model_validate_json(answer.body)
        result = GenerationResult.model_validate_json(answer.body)
    except ValidationError:
        raise NoLeasingError("the answer does not follow the contract") from None
    if result.error is None:
        raise NoLeasingError("the answer does not follow the contract")
    return result.error
