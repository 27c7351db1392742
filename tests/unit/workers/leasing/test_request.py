"""One answer to a request for a key: what fails after it publishes no other."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import SecretStr

from infra.mongo import Document
from tests.builders import NOW, DefectError, Message
from workers.leasing import request as request_module
from workers.leasing.reading import Request
from workers.leasing.replies import Delivery
from workers.leasing.request import Granted, LeaseRequestHandler

LEASE: Document = {
    "_id": "lease-1",
    "automation_id": "billing-bot",
    "key_id": "key-1",
    "key_alias": "Primary",
    "tokens": 10,
    "expires_at": datetime.fromtimestamp(NOW + 60, UTC),
}
WRONG, GOOD = b"no JSON", b"{}"
TO_LEASING: dict[str, Any] = {"type": None, "routing_key": "leases.billing-bot"}


@dataclass
class Parts:
    """The parts of a leasing worker, each of which may be broken; they note what they did, in order."""

    breaks: frozenset[str] = frozenset()
    automation: Document = field(default_factory=lambda: {"_id": "billing-bot", "enabled": False})
    did: list[str] = field(default_factory=list)

    @property
    def automations(self) -> "Parts":
        return self

    async def find_one(self, *_: object) -> Document:
        self.note("decide")
        return self.automation

    def note(self, what: str) -> None:
        self.did.append(what)
        if what in self.breaks:
            raise DefectError

    async def refusal(self, *_: object) -> None:
        self.note("refusal")

    async def lease(self, *_: object) -> Delivery:
        self.note("lease")
        return Delivery.DELIVERED

    async def dead_letter(self, *_: object) -> None:
        self.note("dead_letter")

    def ended(self, *_: object) -> None:
        self.note("metrics")

    def now(self) -> float:
        return NOW


async def handle(
    monkeypatch: pytest.MonkeyPatch, parts: Parts, message: Message, *, granted: bool = False
) -> None:
    monkeypatch.setattr(request_module, "HAND_BACK_AFTER_S", 0)
    part = cast("Any", parts)
    handler = LeaseRequestHandler(part, part, cast("Any", SimpleNamespace()), part, part)

    async def lend(_: Request) -> Granted:
        return Granted(LEASE, "https://api.openai.com/v1", SecretStr("sk-test"), is_new=True)

    if granted:
        monkeypatch.setattr(handler, "_lend", lend)
    await handler.handle(cast("Any", message), "billing-bot")


@pytest.mark.parametrize("broken", ["", "dead_letter", "metrics"])
async def test_what_is_refused_is_dead_lettered_first_answered_once_and_acknowledged_last(
    monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    parts, message = Parts(frozenset({broken})), Message(WRONG, **TO_LEASING)
    await handle(monkeypatch, parts, message)
    assert parts.did == ["dead_letter", "refusal", "metrics"]
    assert message.ends == ["ack"]


@pytest.mark.parametrize(("broken", "end"), [("", "ack"), ("refusal", "nack"), ("metrics", "ack")])
async def test_what_fails_from_a_refusal_on_publishes_no_other(
    monkeypatch: pytest.MonkeyPatch, broken: str, end: str
) -> None:
    parts, message = Parts(frozenset({broken})), Message(GOOD, **TO_LEASING)
    await handle(monkeypatch, parts, message)
    assert parts.did == ["decide", "refusal", "metrics"][: 2 if broken == "refusal" else 3]
    assert message.ends == [end]


@pytest.mark.parametrize(("broken", "end"), [("", "ack"), ("lease", "nack"), ("metrics", "ack")])
async def test_what_fails_from_a_lease_on_publishes_no_refusal(
    monkeypatch: pytest.MonkeyPatch, broken: str, end: str
) -> None:
    parts, message = Parts(frozenset({broken})), Message(GOOD, **TO_LEASING)
    await handle(monkeypatch, parts, message, granted=True)
    assert parts.did == ["lease", "metrics"][: 1 if broken == "lease" else 2]
    assert message.ends == [end]


async def test_a_failure_of_our_own_before_the_answer_is_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, message = Parts(frozenset({"decide"})), Message(GOOD, **TO_LEASING)
    await handle(monkeypatch, parts, message)
    assert parts.did == ["decide", "dead_letter", "refusal", "metrics"]
    assert message.ends == ["ack"]
