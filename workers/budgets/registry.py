"""The operator's hand on budgets: set, list, remove."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from infra.alerts import resolve_alerts
from infra.errors import NotFoundError, PlatformError
from infra.mongo import Document, Mongo, ReturnDocument, Session
from infra.outbox import announce
from workers.budgets.books import note_crossings, raise_to_books, set_to_books, spent_by_books
from workers.budgets.budget import (
    DEFAULT_SOFT_PERCENT,
    SPENT_PERCENT,
    Budget,
    Scope,
    Window,
    budget_id,
    next_period_at,
    period_at,
)
from workers.budgets.stored_budgets import readable_budgets


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose spending a budget bounds.

    Attributes:
        automation_id: the automation, whose own budget it is where neither key nor user is named.
        key: a key's alias.
        user: a user's id.
    """

    automation_id: str
    key: str | None = None
    user: str | None = None

    @classmethod
    def of(cls, budget: Budget) -> Self:
        """Whose a budget is."""
        key = budget.label if budget.scope == "key" else None
        return cls(budget.automation_id, key, budget.subject if budget.scope == "user" else None)


@dataclass(frozen=True, slots=True)
class Standing:
    """A budget and how it stands by the books.

    Attributes:
        budget: as its document says.
        period: the UTC day or month that it is in.
        spent: of it, by the books, in nano-USD.
        until: when the next period begins, in seconds since the epoch.
    """

    budget: Budget
    period: str
    spent: int
    until: float


class BudgetRegistry:
    """Sets and removes budgets; each change leaves its event in the outbox."""

    def __init__(self, mongo: Mongo, actor: str) -> None:
        """Take the database and who acts."""
        self._mongo = mongo
        self._actor = actor

    async def set(
        self,
        subject: Subject,
        window: Window,
        limit: int,
        *,
        soft_percent: int | None = None,
        hard: bool | None = None,
    ) -> Budget:
        """Set a budget, or change it; what is spent of its period already counts.

        Args:
            subject: whose.
            window: of a UTC day or month.
            limit: in nano-USD.
            soft_percent: from which on an alert is raised, 1 to 100; None: as it is, or 80.
            hard: whether calls are stopped when it is spent; None: as it is, or yes.

        Raises:
            NotFoundError: there is no such automation or key.
            PlatformError: the limit or the percentage is out of range.
        """
        if limit < 1:
            raise PlatformError("a budget is more than nothing; `keyway budgets remove` removes one")
        if soft_percent is not None and not 1 <= soft_percent <= SPENT_PERCENT:
            raise PlatformError("the soft threshold is from 1 to 100 percent")
        scope, subject_id, label = await self._find(subject)
        now = await self._mongo.server_time()
        identity = budget_id(scope, window, subject.automation_id, subject_id)
        period = period_at(window, now.timestamp())
        changed = {"limit_nanousd": limit, "label": label, "changed_by": self._actor, "changed_at": now}
        defaults: Document = {
            "scope": scope,
            "automation_id": subject.automation_id,
            "subject": subject_id,
            "window": window,
            "period": period,
            "spent_nanousd": 0,
            "held": [],
            "created_at": now,
        }
        for name, value, default in (
            ("soft_percent", soft_percent, DEFAULT_SOFT_PERCENT),
            ("hard", hard, True),
        ):
            (defaults if value is None else changed)[name] = default if value is None else value

        async def write(session: Session) -> Budget:
            document = await self._mongo.budgets.find_one_and_update(
                {"_id": identity},
                {"$set": changed, "$setOnInsert": defaults},
                upsert=True,
                return_document=ReturnDocument.AFTER,
                session=session,
            )
            budget = Budget.from_document(document, now.timestamp())
            await note_crossings(self._mongo, [(budget, period)], now, session)
            return budget

        budget = await self._mongo.transaction(write)
        await raise_to_books(self._mongo, [(budget, period)], now)
        await announce(self._mongo, subject.automation_id, f"{budget.name} set", self._actor)
        return budget

    async def find(self, subject: Subject, window: Window) -> Budget | None:
        """A budget, as its document says; None: it is not set.

        Raises:
            NotFoundError: there is no such automation or key.
        """
        scope, subject_id, _ = await self._find(subject)
        identity = budget_id(scope, window, subject.automation_id, subject_id)
        document = await self._mongo.budgets.find_one({"_id": identity})
        if document is None:
            return None
        return Budget.from_document(document, (await self._mongo.server_time()).timestamp())

    async def list(self, automation_id: str | None = None) -> Sequence[Standing]:
        """Budgets, of one automation or of all, with what is spent of them by the books.

        Raises:
            NotFoundError: there is no such automation.
        """
        if automation_id is not None:
            await self._find(Subject(automation_id))
        return await self.standings({} if automation_id is None else {"automation_id": automation_id})

    async def standings(self, wanted: Document) -> Sequence[Standing]:
        """Budgets with what is spent of them by the books, by automation.

        Args:
            wanted: which, by fields of their documents.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        now = (await self._mongo.server_time()).timestamp()
        budgets = await self._budgets(wanted, now)
        places = [(budget, period_at(budget.window, now)) for budget in budgets]
        sums = await spent_by_books(self._mongo, places)
        return [
            Standing(budget, period, sums[budget.id, period], next_period_at(budget.window, now))
            for budget, period in places
        ]

    async def remove(self, subject: Subject, window: Window) -> None:
        """Remove a budget, and resolve its alerts.

        Raises:
            NotFoundError: there is no such automation, key or budget.
        """
        scope, subject_id, _ = await self._find(subject)
        identity = budget_id(scope, window, subject.automation_id, subject_id)
        now = await self._mongo.server_time()

        async def delete(session: Session) -> bool:
            deleted = await self._mongo.budgets.delete_one({"_id": identity}, session=session)
            await resolve_alerts(self._mongo, {"subject": identity}, now, session)
            return bool(deleted.deleted_count)

        if not await self._mongo.transaction(delete):
            raise NotFoundError(
                f"there is no such budget; see `keyway budgets list --automation {subject.automation_id}`"
            )
        await announce(self._mongo, subject.automation_id, f"budget of {scope} removed", self._actor)

    async def rebuild(self, automation_id: str | None = None) -> None:
        """Have budgets count what the books say.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        now: datetime = await self._mongo.server_time()
        wanted = {} if automation_id is None else {"automation_id": automation_id}
        await set_to_books(self._mongo, await self._budgets(wanted, now.timestamp()), now)

    async def _budgets(self, wanted: Document, now: float) -> Sequence[Budget]:
        found = self._mongo.budgets.find(wanted).sort([("automation_id", 1), ("_id", 1)])
        return await readable_budgets(found, now)

    async def _find(self, subject: Subject) -> tuple[Scope, str, str]:
        """The scope, the id and the name of a budget's subject; a user need not have been seen yet."""
        automation_id = subject.automation_id
        if await self._mongo.automations.find_one({"_id": automation_id}, {"_id": 1}) is None:
            raise NotFoundError(f"no automation {automation_id}; see `keyway automations list`")
        if subject.key is not None:
            named = {"automation_id": automation_id, "alias": subject.key}
            key = await self._mongo.keys.find_one(named, {"_id": 1})
            if key is None:
                raise NotFoundError(
                    f"{automation_id} has no key {subject.key}; see `keyway keys list {automation_id}`"
                )
            return "key", key["_id"], subject.key
        if subject.user is not None:
            return "user", subject.user, subject.user
        return "automation", automation_id, automation_id
