"""Nothing is acknowledged before it is in the ledger, or among the dead letters."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest

from contracts import names
from contracts.messages import UsageRecorded
from tests.builders import usage_recorded
from tests.harness import eventually
from tests.unit.workers.accounting.deliveries import FakeConsuming
from workers.accounting import booking
from workers.accounting.booking import Booking
from workers.accounting.heartbeats import Heartbeats
from workers.accounting.intake import Intake
from workers.accounting.ledger import Applied, Ledger

UNREADABLE = b'{"event_id": 1}'


def body(number: int, **changes: Any) -> bytes:
    event = usage_recorded(event_id=f"r-{number}:1", request_id=f"r-{number}", **changes)
    return event.model_dump_json().encode()


class Books:
    """A ledger that is open or shut, and a queue of dead letters that confirms or does not."""

    def __init__(self) -> None:
        self.consuming = FakeConsuming()
        self.is_open = asyncio.Event()
        self.confirms = asyncio.Event()
        self.is_open.set()
        self.confirms.set()
        self.writing = asyncio.Event()
        self.booked: list[str] = []
        self.letters: list[str] = []
        self.refusals: list[Exception] = []
        self.intake = Intake(self.consuming.real)
        self.booking = Booking(
            self.intake,
            cast("Ledger", self),
            Heartbeats(cast("Any", None)),
            cast("Any", self),
        )

    async def apply(self, entries: Sequence[UsageRecorded]) -> Sequence[Applied]:
        """As the ledger does."""
        self.writing.set()
        await self.is_open.wait()
        if any(event.model == "too large" for event in entries):
            raise OverflowError
        if any(event.model == "defect" for event in entries):
            raise KeyError("model")
        self.booked += [event.request_id for event in entries]
        return [True] * len(entries)

    async def publish_once(self, _: object, reason: str, **__: object) -> None:
        """As the queue of dead letters does."""
        await self.confirms.wait()
        if self.refusals:
            raise self.refusals.pop(0)
        self.letters.append(reason)

    async def acknowledged(self, up_to: int, *, channel: int = 0) -> None:
        """Wait until so many are, of a channel, and nothing else was."""
        tags = self.consuming.channels[channel].acknowledged

        async def told() -> bool:
            return bool(tags) and tags[-1] >= up_to

        await eventually(told, f"acknowledgement {up_to}")
        assert tags[-1] == up_to


@pytest.fixture
async def books() -> AsyncIterator[Books]:
    books = Books()
    await books.booking.start()
    yield books
    for event in (books.is_open, books.confirms):
        event.set()
    await books.booking.stop(5)


async def test_a_batch_is_acknowledged_at_once_when_it_is_written(books: Books) -> None:
    books.is_open.clear()
    (channel,) = books.consuming.channels
    await channel.deliver(body(1))
    await books.writing.wait()
    await channel.deliver(body(2), body(3))
    assert channel.acknowledged == []
    books.is_open.set()
    await books.acknowledged(3)
    assert channel.acknowledged == [1, 3]
    assert books.booked == ["r-1", "r-2", "r-3"]


async def test_nothing_beyond_a_dead_letter_that_is_not_confirmed_is_acknowledged(books: Books) -> None:
    books.confirms.clear()
    (channel,) = books.consuming.channels
    await channel.deliver(body(1), UNREADABLE, body(3))
    await books.acknowledged(1)
    await channel.deliver(body(4))

    async def all_are_booked() -> bool:
        return books.booked == ["r-1", "r-3", "r-4"]

    await eventually(all_are_booked, "the events around it in the ledger")
    assert channel.acknowledged == [1]
    books.confirms.set()
    await books.acknowledged(4)
    assert books.letters == ["event_id: Input should be a valid string"]


async def test_a_dead_letter_is_published_again_where_its_failure_may_pass(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(booking, "RETRY_S", 0.01)
    books.refusals = [ConnectionError(), TimeoutError()]
    (channel,) = books.consuming.channels
    await channel.deliver(body(1), UNREADABLE, body(3))
    await books.acknowledged(3)
    assert len(books.letters) == 1


async def test_a_dead_letter_that_can_never_be_published_holds_up_no_other_event(books: Books) -> None:
    books.refusals = [ValueError("it can't be put into a frame")]
    (channel,) = books.consuming.channels
    await channel.deliver(body(1), UNREADABLE, body(3), UNREADABLE)
    await books.acknowledged(4)
    assert books.booked == ["r-1", "r-3"]
    assert len(books.letters) == 1
    assert books.refusals == []


@pytest.mark.parametrize(
    ("changes", "error"), [({"model": "too large"}, "OverflowError"), ({"model": "defect"}, "KeyError")]
)
async def test_an_event_that_can_not_be_booked_is_dead_lettered_alone(
    books: Books, changes: dict[str, Any], error: str
) -> None:
    (channel,) = books.consuming.channels
    await channel.deliver(body(1), body(2), body(3, **changes), body(4), body(5))
    await books.acknowledged(5)
    assert sorted(books.booked) == ["r-1", "r-2", "r-4", "r-5"]
    assert books.letters == [f"it can't be stored: {error}"]


async def test_what_a_lost_channel_had_is_left_to_the_next_one(books: Books) -> None:
    books.is_open.clear()
    (first,) = books.consuming.channels
    await first.deliver(body(1))
    await books.writing.wait()
    await first.deliver(body(2))
    books.consuming.opened.clear()
    await first.close()
    await books.consuming.opened.wait()
    second = books.consuming.channels[1]
    await second.consuming.wait()
    await second.deliver(body(1), body(2))
    books.is_open.set()
    await books.acknowledged(2, channel=1)
    assert first.acknowledged == []
    assert books.booked == ["r-1", "r-1", "r-2"]


async def test_what_a_cancelled_consumer_had_is_booked_and_the_queue_is_consumed_again(books: Books) -> None:
    books.is_open.clear()
    (channel,) = books.consuming.channels
    await channel.deliver(body(1))
    await books.writing.wait()
    await channel.deliver(body(2))
    channel.cancel_consumer()
    await channel.consuming.wait()
    await channel.deliver(body(3))
    books.is_open.set()
    await books.acknowledged(3)
    assert books.booked == ["r-1", "r-2", "r-3"]


async def test_what_was_taken_is_booked_before_a_stop(books: Books) -> None:
    books.is_open.clear()
    (channel,) = books.consuming.channels
    await channel.deliver(body(1))
    await books.writing.wait()
    await channel.deliver(body(2), UNREADABLE)
    stopping = asyncio.create_task(books.booking.stop(30))
    await asyncio.sleep(0)
    books.is_open.set()
    await stopping
    assert books.booked == ["r-1", "r-2"]
    await books.acknowledged(3)


async def test_a_heartbeat_is_acknowledged_with_what_came_before_it(books: Books) -> None:
    books.is_open.clear()
    (channel,) = books.consuming.channels
    await channel.deliver(body(1))
    await books.writing.wait()
    beat = b'{"version": "1", "host": "h", "started_at": "2026-03-10T12:00:00Z", "in_flight": 0}'
    await channel.deliver(beat, event_type=names.HEARTBEAT)
    assert channel.acknowledged == []
    books.is_open.set()
    await books.acknowledged(2)
    assert books.booked == ["r-1"]
