"""Delivers the notices of alerts: to each target in their order, again and again until it has them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from infra.alert_notices import DELIVERED, GIVEN_UP, NO_TARGET, RESOLVED, WAITING
from infra.alert_targets import Target, Tone
from infra.alerts import AlertKind, Severity
from infra.background_tasks import BackgroundTasks
from infra.duty import Duty
from infra.mongo import Document, Mongo, PyMongoError
from infra.stored_documents import StoredDocuments

log = structlog.get_logger()

#: Seconds between looks for notices.
LOOK_S = 1.0
#: Seconds until a target that failed is tried again; twice as long each time, to the most.
FIRST_RETRY_S, LONGEST_RETRY_S = 2.0, 900.0
#: Seconds between looks for notices that nobody will get.
STALE_EVERY_S = 5.0
#: A notice is given up when it is so old.
GIVE_UP = timedelta(days=1)
#: Notices in one message; targets have bounds on how long one may be.
MOST_IN_ONE = 10
#: Characters of a reason that are told.
MOST_OF_A_REASON = 160
#: Names come from operators and automations: in a chat, they shall call nobody.
TAMED = str.maketrans({"@": "(at)", "<": "(", ">": ")"})
HEADLINES = {
    AlertKind.KEY_ERROR: "key in error",
    AlertKind.KEY_EXHAUSTED: "key exhausted",
    AlertKind.POOL_LOW: "one usable key left",
    AlertKind.POOL_EMPTY: "no usable key left",
    AlertKind.BUDGET_SOFT: "budget nearly spent",
    AlertKind.BUDGET_SPENT: "budget spent",
    AlertKind.UNKNOWN_PRICE: "model without a price",
    AlertKind.LANE_OLD: "requests wait too long",
    AlertKind.DEAD_LETTERS: "dead letters",
    AlertKind.NO_HEARTBEAT: "no heartbeat",
    AlertKind.LEDGER_LAG: "the ledger lags",
}


@dataclass(frozen=True, slots=True)
class Letter:
    """One message to a target, of one notice or several."""

    title: str
    body: str
    tone: Tone


def compose(notices: Sequence[Document]) -> Letter:
    """Make a message of notices, in their order."""
    lines = [_line(notice) for notice in notices]
    title = _headline(notices[0]) if len(notices) == 1 else f"{len(notices)} notices of alerts"
    raised = [AlertKind(notice["kind"]) for notice in notices if notice["change"] != RESOLVED]
    tone: Tone = "success"
    if raised:
        is_critical = any(kind.severity is Severity.CRITICAL for kind in raised)
        tone = "failure" if is_critical else "warning"
    return Letter(f"Keyway: {title}", "\n".join(lines), tone)


def retry_s(failures: int) -> float:
    """Seconds until a target is tried again that has failed so many times in a row."""
    return min(FIRST_RETRY_S * 2.0 ** min(failures - 1, 30), LONGEST_RETRY_S)


@dataclass(frozen=True, slots=True)
class _Notice:
    """What is told of a notice's document; one that can't be read is given up when it is stale."""

    kind: AlertKind
    change: str
    automation_id: str | None
    label: str
    reason: str
    at: datetime


_DOCUMENTS = StoredDocuments("notices", _Notice)


class Courier:
    """Brings one target what it has not been told yet, while this process has the duty."""

    def __init__(self, mongo: Mongo, duty: Duty, target: Target, every_target: Sequence[str]) -> None:
        """Take the database, whose turn it is, the target, and the names of all targets."""
        self._mongo = mongo
        self._duty = duty
        self._target = target
        self._every_target = list(every_target)
        self._failures = 0
        self._rests_until = float("-inf")

    async def deliver_on_duty(self) -> None:
        """Deliver all that there is to tell, if this process has the duty and the target may be tried.

        Raises:
            PyMongoError: MongoDB is away or refused; what was sent meanwhile is sent again.
        """
        while self._duty.is_held and time.monotonic() >= self._rests_until:
            self._rests_until = time.monotonic() + await self.deliver()

    async def deliver(self) -> float:
        """Send the next message, if there is something to tell.

        Returns:
            Seconds until there may be another.

        Raises:
            PyMongoError: MongoDB is away or refused; what was sent meanwhile is sent again.
        """
        notices = await self._take()
        if not notices:
            return LOOK_S
        letter = compose(notices)
        ids = {"_id": {"$in": [notice["_id"] for notice in notices]}}
        failure = await self._target.send(letter.title, letter.body, letter.tone)
        if failure is None:
            self._failures = 0
            await self._mongo.notices.update_many(ids, {"$addToSet": {"told": self._target.name}})
            log.info("alerts_delivered", target=self._target.name, notices=len(notices))
            await self._finish()
            return 0.0
        self._failures += 1
        pause_s = retry_s(self._failures)
        log.warning("alerts_not_delivered", target=self._target.name, error=failure, retry_in_s=pause_s)
        return pause_s

    async def _take(self) -> list[Document]:
        """The oldest notices that the target lacks; from now on, no later change takes them back."""
        now = await self._mongo.server_time()
        lacking = {"state": WAITING, "told": {"$ne": self._target.name}, "due_at": {"$lte": now}}
        found = self._mongo.notices.find(lacking, {"_id": 1}).sort([("at", 1), ("_id", 1)]).limit(MOST_IN_ONE)
        ids = {"_id": {"$in": [notice["_id"] async for notice in found]}, "state": WAITING}
        await self._mongo.notices.update_many(ids, {"$inc": {"attempts": 1}})
        taken = self._mongo.notices.find(ids).sort([("at", 1), ("_id", 1)])
        return _DOCUMENTS.sound([notice async for notice in taken])

    async def _finish(self) -> None:
        """Mark what every target has."""
        now = await self._mongo.server_time()
        done = {"state": WAITING, "told": {"$all": self._every_target}}
        await self._mongo.notices.update_many(done, {"$set": {"state": DELIVERED, "ended_at": now}})


def deliver_alerts(tasks: BackgroundTasks, mongo: Mongo, duty: Duty, targets: Sequence[Target]) -> None:
    """Deliver to every target from now on; a target that is slow or away delays no other.

    Args:
        tasks: who owns the deliveries.
        mongo: where the notices are.
        duty: only the process that has it delivers.
        targets: who is told.
    """
    every_target = [target.name for target in targets]
    for target in targets:
        courier = Courier(mongo, duty, target, every_target)
        tasks.every(LOOK_S, f"alerts to {target.name}", courier.deliver_on_duty, passes=(PyMongoError,))

    async def end_stale_on_duty() -> None:
        if duty.is_held:
            await end_stale(mongo, has_targets=bool(targets))

    tasks.every(STALE_EVERY_S, "alerts that are stale", end_stale_on_duty, passes=(PyMongoError,))


async def end_stale(mongo: Mongo, *, has_targets: bool) -> None:
    """Give up notices that are a day old, or all of them where there is no target.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    now = await mongo.server_time()
    stale: Document = {"state": WAITING}
    if has_targets:
        stale["at"] = {"$lt": now - GIVE_UP}
    state = GIVEN_UP if has_targets else NO_TARGET
    ended = await mongo.notices.update_many(stale, {"$set": {"state": state, "ended_at": now}})
    if ended.modified_count and has_targets:
        log.error("alerts_given_up", notices=ended.modified_count)


def _headline(notice: Document) -> str:
    is_over = notice["change"] == RESOLVED
    severity = "resolved" if is_over else AlertKind(notice["kind"]).severity.value
    automation_id = notice["automation_id"]
    of = f": {automation_id}/{notice['label']}" if automation_id else ""
    return _tame(f"[{severity}] {HEADLINES[AlertKind(notice['kind'])]}{of}")


def _line(notice: Document) -> str:
    line = f"{notice['at']:%Y-%m-%d %H:%M:%S} UTC {_headline(notice)}"
    if notice["change"] == RESOLVED:
        return line
    reason = notice["reason"]
    cut = reason if len(reason) <= MOST_OF_A_REASON else f"{reason[: MOST_OF_A_REASON - 1]}…"
    return f"{line}: {_tame(cut)}"


def _tame(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text).translate(TAMED)
