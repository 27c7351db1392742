"""The queue `dead`, read without losing anything of it: a person looks at letters, replays or drops them.

Letters are taken in pages and held until the end; what was neither replayed nor dropped goes back to where it
was, in order, when the channel closes. A reader that dies does the same. While somebody reads, others see
the rest of the queue only.
"""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from aio_pika import DeliveryMode, Message, connect
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue
from aiormq.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelInvalidStateError,
    ChannelNotFoundEntity,
    DeliveryError,
    ProbableAuthenticationError,
    PublishError,
)
from pydantic import AwareDatetime, TypeAdapter
from pydantic_core import from_json, to_json
from yarl import URL

from contracts import names
from infra.broker import CONNECT_TIMEOUT_S
from infra.dead_letters import sendable
from infra.errors import BrokerError
from infra.lenient_frames import be_lenient
from infra.mongo import Mongo, UpdateOne
from infra.request_digest import digest_of_message
from infra.settings import Settings

#: Letters of a page: so many that there are at most `MOST_PAGES`, within these bounds.
SMALLEST_PAGE, LARGEST_PAGE = 50, 1000
#: RabbitMQ gives back what up to 32 consumers held in the order of their names; each page has one.
MOST_PAGES = 30
#: The queue is read to its end when nothing comes for so long, in seconds: large letters take their time.
IDLE_S = 10.0
#: How long a confirm may take, in seconds.
CONFIRM_TIMEOUT_S = 30.0
#: How long a journal entry waits for its replay: as long as a claim with the latest deadline is kept.
REOPENED_TTL = timedelta(hours=26)
#: An entry of the journal that is for the next worker to take over, as after a clean stop.
UNCLAIMED = {"status": "running", "owner": None, "crashes": 0, "call": None}
#: What an entry says of its end.
DONE = ("result", "finished_at", "timings", "unattempted")
#: What says how a message died; it has no place in its next life.
DEATH_HEADERS = (
    names.DEATH_HEADER,
    names.REASON_HEADER,
    names.DIED_AT_HEADER,
    names.UNDECODABLE_HEADER,
    names.LEFT_OUT_HEADER,
    names.DELIVERY_COUNT_HEADER,
    "x-acquired-count",
)
DEATH_PREFIXES = ("x-first-death-", "x-last-death-")

_TIME: TypeAdapter[datetime] = TypeAdapter(AwareDatetime)


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter: a message, and what is known of its end."""

    message: AbstractIncomingMessage

    @property
    def routing_key(self) -> str:
        """What it was published with, which names the automation in its last word."""
        return self.message.routing_key or ""

    @property
    def id(self) -> str:
        """What people call it by; the same at every delivery, and for a message that is there twice."""
        died_at = self.died_at.isoformat() if self.died_at else ""
        facts = "\0".join((self.message.message_id or "", self.routing_key, died_at, ""))
        return hashlib.sha256(facts.encode() + self.message.body).hexdigest()[:12]

    @property
    def died_at(self) -> datetime | None:
        """When a worker or the broker put it here, if they say."""
        at = (self.message.headers or {}).get(names.DIED_AT_HEADER, self._death.get("time"))
        return at if isinstance(at, datetime) else None

    @property
    def reason(self) -> str:
        """A worker's reason, else the broker's and the queue that it ended in."""
        given = (self.message.headers or {}).get(names.REASON_HEADER)
        if given is not None:
            return str(given)
        return f"{self._death.get('reason')} in {self._death.get('queue')}" if self._death else "not given"

    @property
    def is_request(self) -> bool:
        """Whether it is a generation request: those have nothing but the automation in their routing key."""
        return names.is_automation_id(self.routing_key)

    @property
    def exchange(self) -> str:
        """Where it came from, by its routing key: an automation may write an `x-death` of its own."""
        is_ask = self.is_request or self.routing_key.startswith("leases.")
        return names.REQUESTS_EXCHANGE if is_ask else names.EVENTS_EXCHANGE

    @property
    def automation_id(self) -> str:
        """Whose message it is: the last word of the routing key."""
        return self.routing_key.rpartition(".")[2]

    @property
    def request_id(self) -> str:
        """The request that it is or tells of; empty where it does not say."""
        if not self.is_request:
            with suppress(ValueError):
                fields = from_json(self.message.body)
                if isinstance(fields, dict) and isinstance(fields.get("request_id"), str):
                    return str(fields["request_id"])
        return self.message.message_id or ""

    @property
    def _death(self) -> dict[str, Any]:
        deaths = (self.message.headers or {}).get(names.DEATH_HEADER)
        last = deaths[0] if isinstance(deaths, list) and deaths else None
        return last if isinstance(last, dict) else {}


@dataclass(frozen=True, slots=True)
class Step:
    """What became of a page; `seen` counts the letters looked at so far, in all pages."""

    seen: int
    #: Those that were found, replayed or dropped.
    done: list[Letter]
    #: Those that should have been replayed and were not, and why.
    kept: list[tuple[Letter, str]]


#: Which letters are meant.
Matches: TypeAlias = Callable[[Letter], bool]


def replayed(letter: Letter, now: datetime) -> Message:
    """The message to publish again: as it was, without how it died and without a deadline that is over."""
    message = letter.message
    headers = {
        name: value
        for name, value in (message.headers or {}).items()
        if name not in DEATH_HEADERS and not name.startswith(DEATH_PREFIXES)
    }
    again = Message(
        without_past_deadline(message.body, now) if letter.is_request else message.body,
        headers=headers,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        type=message.type,
        # One without an id gets the same one at each replay, so that no repeat is done twice.
        message_id=message.message_id or f"dead-{letter.id}",
        correlation_id=message.correlation_id,
        reply_to=message.reply_to,
        timestamp=message.timestamp,
        delivery_mode=DeliveryMode.PERSISTENT,
    )
    return sendable(again, otherwise={})


def without_past_deadline(body: bytes, now: datetime) -> bytes:
    """A request's body without its `deadline`, where that is over; any other body as it is."""
    try:
        fields = from_json(body, allow_inf_nan=False)
        if not isinstance(fields, dict) or _TIME.validate_python(fields.get("deadline")) > now:
            return body
    except ValueError:
        return body
    return to_json({name: value for name, value in fields.items() if name != "deadline"})


class DeadLetterQueue:
    """One reading of the queue, from its oldest letter to the newest that was there at the start.

    Attributes:
        count: letters that were ready in the queue at the start.
        incomplete: after a reading, a line that says that fewer letters came than were counted; None if all
            came, or if the reading was not continued to its end.
    """

    def __init__(self, queue: AbstractQueue, count: int, publishing: AbstractChannel) -> None:
        """Take the queue, how many letters are ready in it, and a channel to publish on."""
        self.count = count
        self.incomplete: str | None = None
        self._queue = queue
        self._publishing = publishing

    async def find(self, wanted: Matches) -> AsyncIterator[Step]:
        """Look at letters; all of them stay."""
        seen = 0
        async for page in self._pages():
            seen += len(page)
            yield Step(seen, [letter for letter in page if wanted(letter)], [])

    async def drop(self, wanted: Matches, most: int) -> AsyncIterator[Step]:
        """Delete letters, the oldest `most` of those that match."""
        async for step in self.find(wanted):
            dropped = step.done[:most]
            most -= len(dropped)
            for letter in dropped:
                await letter.message.ack()
            yield Step(step.seen, dropped, [])

    async def replay(self, wanted: Matches, mongo: Mongo) -> AsyncIterator[Step]:
        """Publish letters again; each leaves the queue when its message is confirmed elsewhere.

        Raises:
            PyMongoError: the journal can't be reached.
        """
        async for step in self.find(wanted):
            now = await mongo.server_time()
            await reopen(mongo, [letter for letter in step.done if letter.is_request], now)
            # Messages of the same id go one after another: aiormq tells returned ones apart by it.
            by_id: dict[str | None, list[Letter]] = defaultdict(list)
            for letter in step.done:
                by_id[letter.message.message_id].append(letter)
            outcomes = await asyncio.gather(*(self._replay(same, now) for same in by_id.values()))
            kept = [refusal for refusals in outcomes for refusal in refusals]
            stay = {id(letter) for letter, _ in kept}
            yield Step(step.seen, [letter for letter in step.done if id(letter) not in stay], kept)

    async def _replay(self, letters: Sequence[Letter], now: datetime) -> list[tuple[Letter, str]]:
        kept = []
        for letter in letters:
            exchange = await self._publishing.get_exchange(letter.exchange, ensure=False)
            try:
                await exchange.publish(replayed(letter, now), letter.routing_key, timeout=CONFIRM_TIMEOUT_S)
            except PublishError:
                kept.append((letter, f"no queue takes {letter.routing_key} from {letter.exchange}"))
            except DeliveryError:
                kept.append((letter, f"the queue of {letter.routing_key} is full"))
            else:
                await letter.message.ack()
        return kept

    async def _pages(self) -> AsyncIterator[list[Letter]]:
        size = min(max(-(-self.count // MOST_PAGES), SMALLEST_PAGE), LARGEST_PAGE)
        await self._queue.channel.set_qos(size)
        left = self.count
        number = 0
        while left > 0 and (page := await self._page(number, min(size, left))):
            yield page
            left -= len(page)
            number += 1
        if left > 0:
            self.incomplete = (
                f"RabbitMQ delivered {self.count - left} of {self.count} dead letters, then none for "
                f"{IDLE_S:g} s; it is slow, or somebody else reads the queue: try again"
            )

    async def _page(self, number: int, size: int) -> list[Letter]:
        """The next letters, by a consumer of their own, since one gets no more than its prefetch."""
        arrived: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
        tag = await self._queue.consume(arrived.put, consumer_tag=f"page-{number:06}")
        page: list[Letter] = []
        with suppress(TimeoutError):
            while len(page) < size:
                async with asyncio.timeout(IDLE_S):
                    page.append(Letter(await arrived.get()))
        await self._queue.cancel(tag)
        return page


@asynccontextmanager
async def dead_letter_queue(settings: Settings) -> AsyncIterator[DeadLetterQueue]:
    """Open the queue for one reading; what is still held at the end goes back.

    Raises:
        BrokerError: RabbitMQ can't be reached or refuses, or the queue is not there.
    """
    be_lenient()
    url = URL(settings.amqp_url.get_secret_value())
    try:
        named = url.update_query({"name": f"keyway dead {settings.worker_id}"})
        async with await connect(named, timeout=CONNECT_TIMEOUT_S) as connection:
            publishing = await connection.channel(publisher_confirms=True, on_return_raises=True)
            async with await connection.channel(publisher_confirms=False) as channel:
                queue = await channel.get_queue(names.DEAD_QUEUE)
                yield DeadLetterQueue(queue, queue.declaration_result.message_count or 0, publishing)
    except (AuthenticationError, ProbableAuthenticationError):
        raise BrokerError("KEYWAY_AMQP_URL: RabbitMQ refuses the user or password") from None
    except ChannelNotFoundEntity:
        raise BrokerError("RabbitMQ has no queue `dead` here, or no exchange; run `keyway init`") from None
    except (AMQPError, ChannelInvalidStateError, OSError) as error:
        reason = f"no connection to RabbitMQ ({type(error).__name__}); what was not done is in `dead` still"
        raise BrokerError(f"KEYWAY_AMQP_URL: {reason}") from None


async def reopen(mongo: Mongo, letters: Iterable[Letter], now: datetime) -> None:
    """Let requests that failed be done anew, where the journal would answer them with their failure.

    The result of another request with the same id stays: the letter is refused for that id again.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    opened = {**UNCLAIMED, "expires_at": now + REOPENED_TTL}
    change = {"$set": opened, "$unset": dict.fromkeys(DONE, "")}
    reopened = [
        UpdateOne(
            {
                "_id": f"{letter.automation_id}/{letter.message.message_id}",
                "status": {"$nin": ["running", "succeeded"]},
                # An entry of a version that kept no digest is taken for the same request.
                "digest": {"$in": [digest, None]},
            },
            change,
        )
        for letter in letters
        if (digest := digest_of_message(letter.message.body)) is not None
    ]
    if reopened:
        await mongo.requests.bulk_write(reopened, ordered=False)
