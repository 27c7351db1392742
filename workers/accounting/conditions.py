"""Conditions that no event tells of: pure decisions of which alerts stand (architecture.md, Alerts)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeAlias

from contracts import names
from infra.alerts import Alert, AlertKind, day_of
from infra.lanes import Age

#: An automation without keys is told of once it has been there for so long.
NEW = timedelta(minutes=5)
#: Who has been silent for so long is no longer expected.
GONE = timedelta(days=7)
#: What has waited too long no longer does below this part of the threshold, so that it does not come and go.
CALM = 0.5

#: What an alert is about: its kind and its subject.
About: TypeAlias = tuple[AlertKind, str]


@dataclass(frozen=True, slots=True)
class Automation:
    """What is known of an automation.

    Attributes:
        id: its id.
        enabled: whether it may ask at all.
        paused: whether its lane is.
        created_at: since when it is there.
        last_heartbeat_at: when one of its processes gave a sign of life; None: never.
        keys: how many it has.
        usable_keys: how many of them are active.
    """

    id: str
    enabled: bool
    paused: bool
    created_at: datetime
    last_heartbeat_at: datetime | None
    keys: int
    usable_keys: int


@dataclass(frozen=True, slots=True)
class Queue:
    """What is known of a queue: how much waits in it, for how long the oldest of it, and for how many."""

    waiting: int = 0
    oldest: Age | None = None
    consumers: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known.

    Attributes:
        now: the time, on MongoDB's clock.
        since: from when on this process would have heard a heartbeat.
        automations: all of them that can be read.
        queues: by their names; None: RabbitMQ does not say.
        unread: automations whose document can't be read; their alerts stay as they are.
    """

    now: datetime
    since: datetime
    automations: Sequence[Automation]
    queues: Mapping[str, Queue] | None
    unread: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From when on something is trouble; seconds, and a number of messages."""

    lane_age_s: float
    dead_letters: int
    silence_s: float
    ledger_lag_s: float


@dataclass(slots=True)
class Findings:
    """What was found of the kinds that could be looked at.

    Attributes:
        kinds: which they are; of others, nothing is known.
        standing: the alerts that should stand.
        unsure: what nobody can tell; it stays as it is.
    """

    kinds: set[AlertKind] = field(default_factory=set)
    standing: dict[About, Alert] = field(default_factory=dict)
    unsure: set[About] = field(default_factory=set)

    def found(self, alert: Alert) -> None:
        """Note an alert that should stand."""
        self.standing[alert.kind, alert.subject] = alert


@dataclass(frozen=True, slots=True)
class Changes:
    """What to write: alerts to raise, and what is over."""

    raised: list[Alert]
    over: list[About]


def findings(facts: Facts, thresholds: Thresholds) -> Findings:
    """Which alerts should stand, by what is known."""
    found = Findings()
    _pools(facts, found)
    if facts.queues is not None:
        _lanes(facts, facts.queues, thresholds, found)
        _dead_letters(facts, facts.queues.get(names.DEAD_QUEUE, Queue()), thresholds, found)
        _ledger(facts, facts.queues.get(names.ACCOUNTING_QUEUE, Queue()), thresholds, found)
    # A heartbeat that waits for accounting is not silence.
    if not any(kind is AlertKind.LEDGER_LAG for kind, _ in (*found.standing, *found.unsure)):
        _heartbeats(facts, thresholds, found)
    found.unsure |= {(kind, automation_id) for kind in found.kinds for automation_id in facts.unread}
    return found


def changes(found: Findings, standing: Iterable[About]) -> Changes:
    """What differs between the alerts that should stand and those that do.

    Args:
        found: what should.
        standing: what does.
    """
    already = set(standing)
    raised = [alert for about, alert in found.standing.items() if about not in already]
    over = [
        about
        for about in already
        if about[0] in found.kinds and about not in found.standing and about not in found.unsure
    ]
    return Changes(raised, sorted(over))


def _alert(facts: Facts, about: About, automation_id: str | None, label: str, reason: str) -> Alert:
    kind, subject = about
    return Alert(kind, automation_id, subject, label, day_of(facts.now), reason)


def _pools(facts: Facts, found: Findings) -> None:
    found.kinds |= {AlertKind.POOL_LOW, AlertKind.POOL_EMPTY}
    for automation in facts.automations:
        if not automation.enabled:
            continue
        low, empty = (AlertKind.POOL_LOW, automation.id), (AlertKind.POOL_EMPTY, automation.id)
        if automation.usable_keys == 0:
            # It got worse: that one is left is neither news nor over.
            found.unsure.add(low)
            if automation.keys:
                reason = f"none of {automation.keys} keys is usable; its requests fail or wait"
                found.found(_alert(facts, empty, automation.id, "pool", reason))
            elif facts.now - automation.created_at >= NEW:
                reason = "it has no keys; its requests fail"
                found.found(_alert(facts, empty, automation.id, "pool", reason))
        elif automation.usable_keys == 1 and automation.keys > 1:
            reason = f"one of {automation.keys} keys is usable"
            found.found(_alert(facts, low, automation.id, "pool", reason))


def _lanes(facts: Facts, queues: Mapping[str, Queue], thresholds: Thresholds, found: Findings) -> None:
    found.kinds.add(AlertKind.LANE_OLD)
    for automation in facts.automations:
        queue = queues.get(names.lane_queue(automation.id), Queue())
        about = (AlertKind.LANE_OLD, automation.id)
        is_old = _is_old(queue.oldest, thresholds.lane_age_s)
        if is_old:
            why = "the lane is paused" if automation.paused else "no worker takes them"
            why = why if automation.paused or not queue.consumers else "workers take too few of them"
            reason = f"{queue.waiting} requests wait, the oldest for {_age(queue.oldest)}: {why}"
            found.found(_alert(facts, about, automation.id, "lane", reason))
        elif is_old is None:
            found.unsure.add(about)


def _dead_letters(facts: Facts, queue: Queue, thresholds: Thresholds, found: Findings) -> None:
    found.kinds.add(AlertKind.DEAD_LETTERS)
    if queue.waiting >= thresholds.dead_letters:
        reason = f"{queue.waiting} could not be done and wait for a person; `keyway dead list`"
        about = (AlertKind.DEAD_LETTERS, names.DEAD_QUEUE)
        found.found(_alert(facts, about, None, "dead letters", reason))


def _ledger(facts: Facts, queue: Queue, thresholds: Thresholds, found: Findings) -> None:
    found.kinds.add(AlertKind.LEDGER_LAG)
    about = (AlertKind.LEDGER_LAG, names.ACCOUNTING_QUEUE)
    is_old = _is_old(queue.oldest, thresholds.ledger_lag_s)
    if is_old:
        reason = f"{queue.waiting} events wait to be booked, the oldest for {_age(queue.oldest)}"
        found.found(_alert(facts, about, None, "ledger", reason))
    elif is_old is None:
        found.unsure.add(about)


def _heartbeats(facts: Facts, thresholds: Thresholds, found: Findings) -> None:
    found.kinds.add(AlertKind.NO_HEARTBEAT)
    longest = timedelta(seconds=thresholds.silence_s)
    for automation in facts.automations:
        last = automation.last_heartbeat_at
        if last is None or not automation.enabled or not longest < facts.now - last < GONE:
            continue
        about = (AlertKind.NO_HEARTBEAT, automation.id)
        if facts.now - facts.since > longest:
            reason = f"none of its processes has given a sign of life since {last:%Y-%m-%d %H:%M:%S} UTC"
            found.found(_alert(facts, about, automation.id, "heartbeat", reason))
        else:
            found.unsure.add(about)


def _is_old(age: Age | None, limit_s: float) -> bool | None:
    """Whether an age is too much; None: nobody can tell, or it is neither too much nor calm."""
    if age is None:
        return False
    if age.seconds >= limit_s:
        return True
    return None if age.at_least or age.seconds >= limit_s * CALM else False


def _age(age: Age | None) -> str:
    seconds = age.seconds if age else 0.0
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
