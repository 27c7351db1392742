"""One terminal result: whatever fails after a result is recorded publishes no other."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from contracts.messages import Outcome
from infra.mongo import PyMongoError
from infra.provision import AUTOMATION_DEFAULTS
from infra.settings import Settings
from tests.builders import NOW, DefectError, Message, make_attempt, make_key
from workers.generation import recording
from workers.generation import request as request_module
from workers.generation.attempts import Answered
from workers.generation.automation import Automation
from workers.generation.journal import Asked, Claim, Done, Record
from workers.generation.request import RequestHandler
from workers.generation.result import FIRST, REPEATED
from workers.keys.pool import Reservation

BODY = b'{"path": "/moderations", "body": {"model": "omni-moderation-latest", "input": "hi"}}'
BOT = Automation.from_document({"_id": "billing-bot", **AUTOMATION_DEFAULTS})


@dataclass
class Parts:
    """The parts of a worker, each of which may be broken; they note what they were asked to do, in order."""

    breaks: frozenset[str] = frozenset()
    done: Done | None = None
    is_taken_over: bool = False
    did: list[str] = field(default_factory=list)
    replies: list[bytes] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def note(self, what: str) -> None:
        self.did.append(what)
        if what in self.breaks:
            raise DefectError

    async def claim(self, asked: Asked, _: object = None) -> Claim | Done:
        self.note("claim")
        return self.done or Claim(asked, run=0)

    async def begin(self, *_: object) -> bool:
        self.note("begin")
        return True

    async def record(self, record: Record) -> bool:
        self.records.append(record)
        self.note("record")
        return not self.is_taken_over

    async def abandon(self, *_: object, **__: object) -> None:
        self.note("abandon")

    async def reserve(self, *_: object) -> None:
        self.note("reserve")

    async def first(self, reserving: asyncio.Task[None]) -> None:
        await asyncio.wait([reserving])

    async def withdraw(self, reserving: asyncio.Task[None] | None) -> None:
        if reserving is not None:
            await asyncio.wait([reserving])

    async def run(self, _: object, __: object, progress: Any, *, on_attempt: Any, **___: Any) -> Answered:
        self.note("call")
        settled = asyncio.get_running_loop().create_future()
        settled.set_result(None)
        progress.attempts.append(make_attempt())
        on_attempt(progress.attempts[-1], settled)
        return Answered(b"{}")

    async def result(self, _: object, result: bytes, end: bytes) -> None:
        self.replies.append(result + end)
        self.note("reply")

    def check_size(self, size: int) -> None:
        """Take messages of each size."""

    async def usage(self, *_: object) -> None:
        self.note("usage")

    async def dead_letter(self, _: object, __: object, reason: str) -> None:
        self.reasons.append(reason)
        self.note("dead_letter")

    def answered(self, *_: object) -> None:
        self.note("metrics")

    def ended(self, *_: object) -> None:
        self.note("metrics")

    def attempt(self, *_: object) -> None:
        """Count an attempt."""


def _fail(*_: object) -> bytes:
    raise DefectError


async def handle(parts: Parts, message: Message, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_module, "HAND_BACK_AFTER_S", 0)
    part = cast("Any", parts)
    handler = RequestHandler(Settings(), part, part, part, publisher=part, now=lambda: NOW, metrics=part)
    await handler.handle(cast("Any", message), BOT)


async def test_a_request_is_recorded_before_it_is_answered_and_acknowledged_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts, message = Parts(), Message(BODY)
    await handle(parts, message, monkeypatch)
    assert parts.did[:4] == ["reserve", "claim", "call", "record"]
    assert sorted(parts.did[4:]) == ["metrics", "reply", "usage"]
    assert message.ends == ["ack"]


@pytest.mark.parametrize(
    ("broken", "end"),
    [("reply", "nack"), ("usage", "nack"), ("metrics", "ack"), ("ack", "ack")],
)
async def test_what_fails_after_the_record_publishes_no_other_result(
    monkeypatch: pytest.MonkeyPatch, broken: str, end: str
) -> None:
    parts, message = Parts(frozenset({broken})), Message(BODY, breaks=frozenset({broken}))
    await handle(parts, message, monkeypatch)
    assert len(parts.replies) == 1
    assert b'"status":"succeeded"' in parts.replies[0]
    assert parts.replies[0].endswith(FIRST)
    assert [record.status for record in parts.records] == ["succeeded"]
    assert "dead_letter" not in parts.did
    assert message.ends == [end]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_delivery_whose_request_was_taken_over_is_booked_and_handed_back_without_a_result(
    monkeypatch: pytest.MonkeyPatch, *, fails: bool
) -> None:
    # Who took it over may have a copy of it with another address: acknowledged, this one got no answer.
    if fails:
        monkeypatch.setattr(recording, "succeeded", _fail)
    parts, message = Parts(is_taken_over=True), Message(BODY)
    await handle(parts, message, monkeypatch)
    assert parts.did == ["reserve", "claim", "call", "record", "usage"]
    assert message.ends == ["nack"]


@pytest.mark.parametrize("broken", ["reply", "usage", "metrics", "ack"])
async def test_a_repeat_that_fails_publishes_no_other_result(
    monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    parts = Parts(frozenset({broken}), done=Done("succeeded", b'{"status":"succeeded"', [b"{}"], b""))
    message = Message(BODY, breaks=frozenset({broken}))
    await handle(parts, message, monkeypatch)
    assert all(reply == b'{"status":"succeeded"' + REPEATED for reply in parts.replies)
    assert not {"record", "dead_letter"} & set(parts.did)
    assert message.ends == (["nack"] if broken in {"reply", "usage"} else ["ack"])


async def test_a_result_that_can_not_be_built_is_recorded_as_our_own_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recording, "succeeded", _fail)
    parts, message = Parts(), Message(BODY)
    await handle(parts, message, monkeypatch)
    assert [record.status for record in parts.records] == ["internal"]
    assert len(parts.replies) == 1
    assert b'"code":"internal"' in parts.replies[0]
    assert parts.did.count("dead_letter") == 1
    assert message.ends == ["ack"]


@pytest.mark.parametrize("broken", [frozenset[str](), frozenset({"dead_letter"}), frozenset({"metrics"})])
async def test_what_is_refused_is_dead_lettered_first_and_answered_once(
    monkeypatch: pytest.MonkeyPatch, broken: frozenset[str]
) -> None:
    parts, message = Parts(broken), Message(b"no JSON")
    await handle(parts, message, monkeypatch)
    assert parts.did == ["dead_letter", "reply", "metrics"]
    assert parts.replies[0].endswith(FIRST)
    assert message.ends == ["ack"]


@pytest.mark.parametrize("redelivered", [True, False])
async def test_a_dead_letter_that_a_dead_worker_may_not_have_written_is_written_by_who_repeats_the_result(
    monkeypatch: pytest.MonkeyPatch, *, redelivered: bool
) -> None:
    internal = Done("internal", b'{"status":"failed","error":{"message":"by a test"}', [], b"")
    parts, message = Parts(done=internal), Message(BODY, redelivered=redelivered)
    await handle(parts, message, monkeypatch)
    written = ["dead_letter"] if redelivered else []
    assert parts.did == ["reserve", "claim", *written, "reply", "metrics"]
    assert parts.reasons == ["by a test"] * len(written)
    assert message.ends == ["ack"]


async def test_a_dead_letter_that_can_not_be_written_hands_no_recorded_result_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recording, "succeeded", _fail)
    parts, message = Parts(frozenset({"dead_letter"})), Message(BODY)
    await handle(parts, message, monkeypatch)
    assert (len(parts.replies), message.ends) == (1, ["ack"])


async def test_the_books_know_of_a_call_before_the_journal_forgets_it_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = Parts()

    async def fail_over(
        _: object, __: object, progress: Any, *, on_call: Any, on_attempt: Any, **___: Any
    ) -> Answered:
        settled = asyncio.get_running_loop().create_future()
        settled.set_result(None)
        progress.attempts.append(make_attempt(outcome=Outcome.RATE_LIMITED))
        on_attempt(progress.attempts[-1], settled)
        await on_call(Reservation(make_key(), int(NOW), 1, "", "worker-1", since=0.0), 2)
        return Answered(b"{}")

    monkeypatch.setattr(parts, "run", fail_over)
    await handle(parts, Message(BODY), monkeypatch)
    assert parts.did[:4] == ["reserve", "claim", "usage", "begin"]


async def test_a_refusal_that_may_have_been_answered_before_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, message = Parts(), Message(b"no JSON", redelivered=True)
    await handle(parts, message, monkeypatch)
    assert parts.replies[0].endswith(REPEATED)


async def test_a_request_is_handed_back_while_mongodb_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, message = Parts(), Message(BODY)

    async def away(*_: object) -> Claim:
        raise PyMongoError

    monkeypatch.setattr(parts, "claim", away)
    await handle(parts, message, monkeypatch)
    assert (parts.replies, message.ends) == ([], ["nack"])
