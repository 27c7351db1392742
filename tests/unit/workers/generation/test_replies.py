"""An answer that the broker does not take at once is sent again, and that is said once."""

from typing import Any, cast

import pytest
from aiormq.exceptions import DeliveryError
from pamqp.commands import Basic
from structlog.testing import capture_logs

from tests.builders import make_envelope
from workers.generation import replies
from workers.generation.replies import Replies
from workers.generation.result import FIRST


class FullQueue:
    """A reply queue that refuses a few publishes."""

    def __init__(self, refusals: int) -> None:
        self._refusals = refusals
        self.taken: list[bytes] = []

    async def publish(self, body: bytes, *_: object, **__: object) -> None:
        """As `ConfirmedPublishing` does."""
        if self._refusals:
            self._refusals -= 1
            raise DeliveryError(None, Basic.Nack())
        self.taken.append(body)


class SlowAddresses:
    """Direct addresses of which the first look gets no answer."""

    def __init__(self) -> None:
        self._looks = 0

    def is_proved(self, _: str) -> bool:
        """As `DirectAddresses` does."""
        return False

    async def is_there(self, *_: str) -> bool:
        """As `DirectAddresses` does."""
        self._looks += 1
        if self._looks == 1:
            raise TimeoutError
        return True


@pytest.mark.parametrize(("refusals", "lines"), [(0, 0), (1, 1), (20, 1)])
async def test_a_reply_queue_that_stays_full_is_one_line_for_each_answer(
    monkeypatch: pytest.MonkeyPatch, refusals: int, lines: int
) -> None:
    monkeypatch.setattr(replies, "RETRY_S", 0.001)
    monkeypatch.setattr(replies, "LONGEST_RETRY_S", 0.001)
    queue = FullQueue(refusals)
    with capture_logs() as logged:
        envelope = make_envelope(reply_to="replies.billing-bot")
        await Replies(cast("Any", queue), cast("Any", None)).result(envelope, b'{"a":1', FIRST)
    assert len(queue.taken) == 1
    assert [line["event"] for line in logged] == ["reply_delayed"] * lines


async def test_an_answer_that_waited_for_a_look_at_its_address_repeats_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replies, "RETRY_S", 0.001)
    queue = FullQueue(0)
    envelope = make_envelope(reply_to="amq.rabbitmq.reply-to.g1.2")
    await Replies(cast("Any", queue), cast("Any", SlowAddresses())).result(envelope, b'{"a":1', FIRST)
    assert queue.taken == [b'{"a":1' + FIRST]
