"""What each model used on each day, over all automations: days that are over are read ahead of who asks.

There are as many totals of a model and a day as automations that called it, so that a month of them takes
seconds to add up. Those of past days hardly change any more: they are kept for a while, and read anew in the
background.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from datetime import date, timedelta

from infra.mongo import Document, Mongo
from infra.totals import SUMMED

#: Days that are read ahead, today included.
AHEAD = 31
#: Days from which on events still come in: today, and yesterday about midnight.
OPEN = timedelta(days=1)
#: For how long a past day's sums are good, and how often they are read anew, in seconds.
KEPT_S = 900.0
READ_EVERY_S = 600.0

#: Models of a day that are told apart, and what the others are called.
MOST_MODELS, OTHERS = 500, "other models"

#: The sums of each model on one day.
DayOfModels = dict[str, dict[str, int]]


class ModelTotals:
    """Sums over all automations, by day and model."""

    def __init__(self, mongo: Mongo) -> None:
        """Take the database."""
        self._mongo = mongo
        self._past: dict[str, tuple[float, DayOfModels]] = {}
        self._reading = asyncio.Lock()

    async def read_ahead(self) -> None:
        """Read the past days of the last month.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        today = (await self._mongo.server_time()).date()
        days = [(today - timedelta(days=number)).isoformat() for number in range(AHEAD)]
        await self._remember(day for day in days if _is_past(day, today))

    async def read(self, days: Sequence[str]) -> dict[str, DayOfModels]:
        """The sums of each model on each of these UTC days.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        today = (await self._mongo.server_time()).date()
        async with self._reading:
            fresh = time.monotonic() - KEPT_S
            known = {day: sums for day, (at, sums) in self._past.items() if at > fresh}
            is_past = {day: _is_past(day, today) for day in days}
            missing = [day for day in days if is_past[day] and day not in known]
            await self._remember(missing)
        known |= {day: self._past[day][1] for day in missing}
        open_days = await self._sum([day for day in days if not is_past[day]])
        return {day: known[day] if is_past[day] else open_days[day] for day in days}

    async def _remember(self, days: Iterable[str]) -> None:
        read = await self._sum(list(days))
        self._past |= {day: (time.monotonic(), sums) for day, sums in read.items()}

    async def _sum(self, days: list[str]) -> dict[str, DayOfModels]:
        found: dict[str, DayOfModels] = {day: {} for day in days}
        if not days:
            return found
        sums: Document = {name: {"$sum": f"${name}"} for name in SUMMED}
        stages: list[Document] = [
            {"$match": {"dimension": "model", "day": {"$in": days}}},
            {"$group": {"_id": {"day": "$day", "model": "$subject"}, **sums}},
        ]
        async for total in self._mongo.usage_daily.aggregate(stages):
            identity = total.pop("_id")
            found[identity["day"]][identity["model"]] = total
        return {day: folded(sums) for day, sums in found.items()}


def folded(sums: DayOfModels) -> DayOfModels:
    """The sums of the dearest models; automations name models as they like, so the others are one."""
    if len(sums) <= MOST_MODELS:
        return sums
    ranked = sorted(sums.items(), key=lambda model: (-model[1]["cost_nanousd"], model[0]))
    rest = [others for _, others in ranked[MOST_MODELS:]]
    return dict(ranked[:MOST_MODELS]) | {OTHERS: {name: sum(o[name] for o in rest) for name in SUMMED}}


def _is_past(day: str, today: date) -> bool:
    return day < (today - OPEN).isoformat()
