"""The client's connection to RabbitMQ, which comes back by itself."""

from __future__ import annotations

import asyncio
import logging
import ssl
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from aiormq import Connection
from aiormq.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelInvalidStateError,
    ProbableAuthenticationError,
)

from contracts.background import Background
from contracts.errors import ClientClosedError, PublishError
from contracts.message_size import SizeLimit
from contracts.retrying import retrying

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    from aiormq.abc import AbstractChannel, AbstractConnection
    from yarl import URL

T = TypeVar("T")
log = logging.getLogger("keyway")

#: How long to wait for the broker: for a connection, a channel, a confirm; in seconds.
BROKER_TIMEOUT_S = 15.0
#: Seconds between two tries to reach the broker.
RETRY_S = 0.5
#: Seconds between heartbeats of the connection; a peer that is silent for three of them is gone.
HEARTBEAT_S = 10
#: AMQP's own limit of channels, where the broker names none.
MOST_CHANNELS = 65_535

REFUSED = (AuthenticationError, ProbableAuthenticationError)


class ChannelLostError(Exception):
    """A channel or its connection went away under an operation."""


async def on_channel(operation: Awaitable[T]) -> T:
    """Await an operation of the driver.

    The driver may say with a cancellation of its own that a channel went away; and it may swallow one of its
    caller's (Python 3.11's `wait_for` does), or turn it into another error.

    Raises:
        ChannelLostError: the channel went away.
    """
    before = _cancellations()
    try:
        result = await operation
    except asyncio.CancelledError:
        if _cancellations():
            raise
        raise ChannelLostError from None
    except (AMQPError, ChannelInvalidStateError, OSError, RuntimeError) as error:
        if _cancellations() > before:
            raise asyncio.CancelledError from error
        raise ChannelLostError from error
    if _cancellations() > before:
        raise asyncio.CancelledError
    return result


async def close(what: AbstractChannel | AbstractConnection) -> None:
    """Close a channel or a connection, if it is not closed."""
    with suppress(ChannelLostError):
        await on_channel(what.close(ChannelInvalidStateError("closed by the client")))


async def open_connection(url: URL) -> AbstractConnection:
    """Open a connection, which does not come back by itself.

    Args:
        url: AMQP address with a user and a password.

    Raises:
        AMQPError: the broker refuses.
        OSError: it can't be reached, or does not answer in time.
    """
    connection = Connection(url)
    try:
        async with asyncio.timeout(BROKER_TIMEOUT_S):
            await on_channel(connection.connect())
    except ChannelLostError as error:
        lost = error.__cause__ or ConnectionError("it ended while it was opened")
        raise lost from lost.__cause__
    except BaseException:
        await close(connection)
        raise
    return connection


def why_untrusted(error: BaseException) -> str | None:
    """What is wrong with the broker's certificate, where that is why it could not be connected to."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return cause.verify_message
        cause = cause.__cause__
    return None


def _cancellations() -> int:
    """How often the running task was told to end."""
    task = asyncio.current_task()
    return task.cancelling() if task else 0


class BrokerConnection:
    """One connection, opened again whenever it is lost, until it is closed.

    Args:
        url: AMQP address with a user and a password.
        users: the users to try the password with, the likeliest first; a token that is being rotated belongs
            to one of two.
        name: what the connection is called in RabbitMQ's management page.

    Attributes:
        size_limit: how large a message may be, as far as RabbitMQ has said.
    """

    def __init__(self, url: URL, users: tuple[str | None, ...], name: str) -> None:
        self._url = url.with_query({"heartbeat": str(HEARTBEAT_S), "name": name, **url.query})
        self._users = users
        self._connection: AbstractConnection | None = None
        self.size_limit = SizeLimit()
        self._changed = asyncio.Event()
        self._tasks = Background()
        self._is_kept = False

    async def open(self) -> None:
        """Connect.

        Raises:
            PublishError: the broker can't be reached, refuses the user or token, or has a certificate that is
                not trusted.
        """
        where = f"{self._url.host}:{self._url.port or 5672}"
        try:
            connection = await self._connect()
        except REFUSED:
            raise PublishError(
                f"can't connect to RabbitMQ at {where}: it refuses the user or token"
            ) from None
        except (AMQPError, OSError) as error:
            reason = why_untrusted(error)
            said = type(error).__name__ if reason is None else f"its certificate is not trusted: {reason}"
            raise PublishError(f"can't connect to RabbitMQ at {where}: {said}") from None
        self._connection = connection
        self._is_kept = True
        self._tasks.start("connection", self._keep(connection))

    async def close(self) -> None:
        """Disconnect; who waits for a channel gets `ClientClosedError`."""
        self._is_kept = False
        connection, self._connection = self._connection, None
        self._announce()
        await self._tasks.close()
        if connection is not None:
            await close(connection)

    async def channel(self) -> AbstractChannel:
        """Open a channel with publisher confirms, once the connection is there and has a number free.

        Raises:
            ClientClosedError: the connection is closed for good, or was never opened.
        """

        def note(error: Exception) -> None:
            log.debug("no channel: %r", error.__cause__)

        return await retrying(
            self._new_channel, passes=(ChannelLostError,), pause_s=RETRY_S, longest_pause_s=RETRY_S, note=note
        )

    async def _new_channel(self) -> AbstractChannel:
        """Open a channel.

        Raises:
            ChannelLostError: there is none now.
            ClientClosedError: the connection is closed for good, or was never opened.
        """
        connection = await self._ready()
        if (number := _free_number(connection)) is None:
            raise ChannelLostError("the connection has no channel left")
        try:
            return await on_channel(
                # With a bound, a channel that reads nothing more stops the whole connection.
                connection.channel(
                    number, frame_buffer_size=0, timeout=BROKER_TIMEOUT_S, on_return_raises=True
                )
            )
        except asyncio.CancelledError:
            if opened := connection.channels.get(number):
                await close(opened)
            raise

    @asynccontextmanager
    async def brief_channel(self) -> AsyncIterator[AbstractChannel]:
        """A channel that is closed when the block ends.

        Raises:
            ClientClosedError: the connection is closed for good, or was never opened.
        """
        channel = await self.channel()
        try:
            yield channel
        finally:
            # A close that is cancelled is sent twice, and the second one costs the connection.
            await asyncio.shield(close(channel))

    async def _ready(self) -> AbstractConnection:
        while self._is_kept:
            if self._connection is not None and not self._connection.is_closed:
                return self._connection
            await self._changed.wait()
        raise ClientClosedError("the client is not connected; use `async with Keyway(…)`")

    def _announce(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _keep(self, connection: AbstractConnection) -> None:
        while True:
            await asyncio.wait([connection.closing])
            self._connection = None
            log.info("the connection to RabbitMQ is lost; connecting again")
            await asyncio.sleep(RETRY_S)
            # Whatever the driver raises, the next try follows.
            self._connection = connection = await retrying(
                self._connect,
                passes=(Exception,),
                pause_s=RETRY_S,
                longest_pause_s=RETRY_S,
                note=_not_connected,
            )
            self._announce()

    async def _connect(self) -> AbstractConnection:
        """Connect as the user whom the broker takes with this token; it is tried first the next time."""
        for user in self._users:
            try:
                connection = await open_connection(self._url if user is None else self._url.with_user(user))
            except REFUSED as error:
                refusal = error
            else:
                self._users = (user, *(other for other in self._users if other != user))
                return connection
        raise refusal


def _not_connected(error: Exception) -> None:
    log.debug("not connected: %s", type(error).__name__)


def _free_number(connection: AbstractConnection) -> int | None:
    """The lowest channel number that is not in use; the driver itself would count up past the limit."""
    most = connection.connection_tune.channel_max or MOST_CHANNELS
    return next((number for number in range(1, most + 1) if number not in connection.channels), None)
