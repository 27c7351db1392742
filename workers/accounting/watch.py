"""Looks every few seconds for trouble that no event tells of, and raises and resolves its alerts."""

from collections.abc import Mapping
from datetime import datetime
from functools import partial

import structlog

from contracts import names
from infra.alerts import AlertKind, raise_alert, readable_alerts, resolve_alerts
from infra.automation_documents import AutomationDocuments
from infra.duty import Duty
from infra.errors import BrokerError
from infra.lanes import QueueWatch
from infra.mongo import Document, Mongo, Session
from infra.settings import Settings
from workers.accounting.automation import FIELDS, StoredAutomation
from workers.accounting.conditions import (
    About,
    Automation,
    Changes,
    Facts,
    Queue,
    Thresholds,
    changes,
    findings,
)
from workers.keys.expressions import is_in_service

log = structlog.get_logger()

#: Kinds that are looked for here; the others are raised with what they tell of.
WATCHED = (
    AlertKind.POOL_LOW,
    AlertKind.POOL_EMPTY,
    AlertKind.LANE_OLD,
    AlertKind.DEAD_LETTERS,
    AlertKind.NO_HEARTBEAT,
    AlertKind.LEDGER_LAG,
)


def thresholds_of(settings: Settings) -> Thresholds:
    """From when on something is trouble, by the settings."""
    return Thresholds(
        lane_age_s=settings.alert_lane_age_s,
        dead_letters=settings.alert_dead_letters,
        silence_s=settings.alert_silence_s,
        ledger_lag_s=settings.alert_ledger_lag_s,
    )


class Watch:
    """Looks for trouble while this process has the duty."""

    def __init__(self, mongo: Mongo, queues: QueueWatch, duty: Duty, thresholds: Thresholds) -> None:
        """Take what to look at, whose turn it is, and what is trouble."""
        self._mongo = mongo
        self._queues = queues
        self._duty = duty
        self._thresholds = thresholds
        self._documents = AutomationDocuments(StoredAutomation)
        self._since: datetime | None = None
        self._is_broker_there = True

    async def look_on_duty(self) -> None:
        """Look, if this process has the duty.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        if self._duty.is_held:
            await self.look()
        else:
            self._since = None

    async def look(self) -> Changes:
        """Raise what should stand, and resolve what is over.

        Returns:
            What was written.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        now = await self._mongo.server_time()
        self._since = self._since or now
        automations, unread = await self._automations()
        facts = Facts(now, self._since, automations, await self._queues_known(), unread)
        found = changes(findings(facts, self._thresholds), await self._standing())
        for alert in found.raised:
            await self._mongo.transaction(partial(raise_alert, self._mongo, alert, now))
            log.warning("alert_raised", kind=alert.kind.value, subject=alert.subject, reason=alert.reason)
        for kind, subject in found.over:
            await self._mongo.transaction(partial(self._resolve, kind, subject, now))
            log.info("alert_resolved", kind=kind.value, subject=subject)
        return found

    async def _resolve(self, kind: AlertKind, subject: str, now: datetime, session: Session) -> None:
        await resolve_alerts(self._mongo, {"kind": kind.value, "subject": subject}, now, session)

    async def _standing(self) -> list[About]:
        kinds = [kind.value for kind in WATCHED]
        found = self._mongo.alerts.find({"resolved_at": None, "kind": {"$in": kinds}})
        return [(AlertKind(alert["kind"]), alert["subject"]) for alert in await readable_alerts(found)]

    async def _automations(self) -> tuple[list[Automation], frozenset[str]]:
        """What is known of automations, and those whose document can't be read."""
        usable = {"$sum": {"$cond": [is_in_service(), 1, 0]}}
        stages: list[Document] = [
            {"$group": {"_id": "$automation_id", "keys": {"$sum": 1}, "usable": usable}}
        ]
        pools = {pool["_id"]: pool async for pool in self._mongo.keys.aggregate(stages)}
        none = {"keys": 0, "usable": 0}
        read = self._documents.read([found async for found in self._mongo.automations.find({}, FIELDS)])
        known = [
            Automation(
                id=automation.id,
                enabled=automation.enabled,
                paused=automation.paused,
                created_at=automation.created_at,
                last_heartbeat_at=automation.last_heartbeat_at,
                keys=pools.get(automation.id, none)["keys"],
                usable_keys=pools.get(automation.id, none)["usable"],
            )
            for automation in read.values()
            if automation is not None
        ]
        return known, frozenset(read.keys() - {automation.id for automation in known})

    async def _queues_known(self) -> Mapping[str, Queue] | None:
        """What waits in which queue; None: the management API does not say, which is logged once."""
        try:
            states = await self._queues.queues()
        except BrokerError as error:
            if self._is_broker_there:
                log.warning("queues_not_looked_at", error=str(error))
            self._is_broker_there = False
            return None
        self._is_broker_there = True
        known = {
            name: Queue(state.waiting, self._queues.oldest(name), state.consumers)
            for name, state in states.items()
        }
        for name, oldest in (
            (names.ACCOUNTING_QUEUE, self._queues.oldest_unbooked()),
            (names.DEAD_QUEUE, None),
        ):
            if (state := states.get(name)) is not None:
                known[name] = Queue(state.waiting + state.in_hand, oldest, state.consumers)
        return known
