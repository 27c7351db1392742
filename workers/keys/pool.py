"""The key pool: reserves the best key of an automation for a request, and settles it afterwards."""

import asyncio
import time
from dataclasses import replace
from functools import partial

from infra.background_tasks import BackgroundTasks
from infra.mongo import Mongo, PyMongoError
from workers.budgets.keeper import BudgetKeeper
from workers.keys.automation_keys import AutomationKeys, PoolParts, Reservation, Reserved
from workers.keys.call_slots import CallSlots
from workers.keys.holds import Holds
from workers.keys.key import Key
from workers.keys.leases import Held, LeasedKey, begin_lease, begin_slot
from workers.keys.limits import used_in_window
from workers.keys.reported import is_news
from workers.keys.reservations import renew_holds
from workers.keys.selection import Ask
from workers.keys.server_clock import ServerClock
from workers.keys.settlements import Settlement
from workers.keys.settler import Settled, Settler

__all__ = ["KeyPool", "Reservation", "Reserved"]


#: How often holds are renewed; well under `expressions.HOLD_S`.
RENEW_S = 30.0


class KeyPool:
    """Keys of all automations, for one worker process.

    Args:
        mongo: where the keys are.
        worker_id: under which this process holds its reservations.
        max_in_flight: the bound on calls that are reserved at a time; None: there is none.
    """

    def __init__(self, mongo: Mongo, worker_id: str, max_in_flight: int | None = None) -> None:
        self._mongo = mongo
        self._clock = ServerClock()
        self._automations: dict[str, AutomationKeys] = {}
        self._budgets = BudgetKeeper(mongo, worker_id, self.now)
        self._holds = Holds(worker_id, partial(renew_holds, mongo))
        self._settler = Settler(mongo, self._holds, view=self._view, learn=self._learn, now=self.now)
        self._slots = CallSlots(max_in_flight)
        self._tasks = BackgroundTasks("pool")
        self._parts = PoolParts(
            mongo, self._clock, self._budgets, self._holds, self._settler, self._slots, self._tasks
        )

    async def start(self) -> None:
        """Set the clock by MongoDB's, and begin to renew this worker's holds.

        Raises:
            PyMongoError: MongoDB is away.
        """
        asked_at = time.monotonic()
        self._clock.set((await self._mongo.server_time()).timestamp(), asked_at)
        self._tasks.every(RENEW_S, "holds", self._holds.renew, passes=(PyMongoError,))
        self._tasks.every(RENEW_S, "budgets", self._budgets.renew, passes=(PyMongoError,))

    async def close(self) -> None:
        """Settle what is to be settled, and stop."""
        await asyncio.gather(*(keys.close() for keys in self._automations.values()))
        await self._settler.drain()
        await self._budgets.close()
        await self._tasks.close()

    def now(self) -> float:
        """The time on MongoDB's clock, in seconds since the epoch."""
        return self._clock.now()

    @property
    def held_calls(self) -> int:
        """How many calls are reserved here and not settled, those ahead aside."""
        return self._holds.calls - sum(keys.calls_ahead for keys in self._automations.values())

    def calls_that_fit(self, automation_id: str) -> int:
        """How many more calls the automation's keys have room for, as last seen; 0 while one waits here."""
        keys = self._automations.get(automation_id)
        return 0 if keys is None else keys.calls_that_fit()

    def latency_s(self, automation_id: str) -> float:
        """How long a call of the automation takes, smoothed, with its slowest key; 0 where there was none."""
        keys = self._automations.get(automation_id)
        return 0.0 if keys is None else keys.latency_s()

    async def reserve(self, automation_id: str, ask: Ask, max_in_flight: int | None = None) -> Reserved:
        """Reserve the best key for a call, waiting for room until the deadline.

        Args:
            automation_id: whose keys.
            ask: what is needed.
            max_in_flight: the automation's own cap on calls in flight, as it stands now.

        Returns:
            The reservation; or why no key will serve before the deadline; or when one may, if that is
            beyond the ask's patience.

        Raises:
            PyMongoError: MongoDB is away.
        """
        claims = await self._budgets.claim(automation_id, ask)
        if not isinstance(claims, tuple):
            return claims
        reserved: Reserved | None = None
        try:
            reserved = await self._of(automation_id).reserve(ask, max_in_flight)
        finally:
            if claims and not isinstance(reserved, Reservation):
                self._budgets.release(claims)
        if claims and isinstance(reserved, Reservation):
            return replace(reserved, claims=(*reserved.claims, *claims))
        return reserved

    def settle(self, reservation: Reservation, settlement: Settlement) -> "asyncio.Future[None]":
        """Give a reservation back and count what was used.

        Returns:
            Done when it is written; await it where the next reservation must see it (a cooldown).
        """
        self._slots.give(1)
        news = self._only_news(reservation, settlement)
        settled = self._settler.submit(Settled(reservation.key, reservation.hold, news, reservation.slot))
        if not reservation.claims:
            return settled
        spent = self._budgets.settle(reservation.claims, settlement.cost_nanousd, self.now())
        return self._tasks.start("settlement", _both(spent, settled))

    def answered(self, automation_id: str, model: str) -> None:
        """Note that a provider has answered an automation for a model: there is such a one."""
        self._of(automation_id).models.answered(model)

    def release(self, reservation: Reservation) -> "asyncio.Future[None]":
        """Give back a reservation whose call was not made.

        Returns:
            Done when it is written; await it where the next reservation may need its room.
        """
        unmade = Settlement(reservation.second, reservation.tokens, 0, reservation.model, unmade=1)
        return self.settle(reservation, unmade)

    async def lend(self, reservation: Reservation, lease: LeasedKey) -> bool:
        """Have a lease take a reservation over, so that it counts whether this worker lives or not.

        Returns:
            Whether the key may be given away. Where it was stopped meanwhile, the reservation is given back.

        Raises:
            PyMongoError: MongoDB is away; the reservation lapses.
        """
        hold = reservation.hold
        held = Held(hold, reservation.second, reservation.tokens, reservation.model)
        try:
            is_lent = await begin_lease(self._mongo, lease, held)
            if is_lent and reservation.slot:
                await begin_slot(self._mongo, lease, hold)
        except PyMongoError:
            if self._holds.name == hold:
                self._holds.anew()
            self._holds.give(hold, 1)
            self._slots.give(1)
            self._budgets.release(reservation.claims)
            raise
        if is_lent:
            self._holds.give(hold, 1)
            self._slots.give(1)
            await self._budgets.lend(reservation.claims, lease)
        else:
            self.release(reservation)
        self.invalidate(reservation.key.automation_id)
        return is_lent

    def _only_news(self, reservation: Reservation, settlement: Settlement) -> Settlement:
        """What the provider says of its limits is written down only where it is not known already."""
        word = settlement.rate_limits
        if word is None:
            return settlement
        key = self._view(reservation.key) or reservation.key
        now, model = self.now(), reservation.model
        if is_news(key.reported.get(model), word, used_in_window(key, now, model), now):
            return settlement
        return replace(settlement, rate_limits=None)

    def invalidate(self, automation_id: str) -> None:
        """Read the automation's keys and budgets again before the next reservation."""
        self._budgets.invalidate(automation_id)
        if keys := self._automations.get(automation_id):
            keys.invalidate()

    def _of(self, automation_id: str) -> AutomationKeys:
        keys = self._automations.get(automation_id)
        if keys is None:
            keys = AutomationKeys(automation_id, self._parts, self.release)
            self._automations[automation_id] = keys
        return keys

    def _view(self, key: Key) -> Key | None:
        """The key as last seen; None where it is gone."""
        return self._of(key.automation_id).keys.get(key.id)

    def _learn(self, key: Key) -> None:
        self._of(key.automation_id).learn(key)


async def _both(spent: "asyncio.Future[list[None]]", settled: "asyncio.Future[None]") -> None:
    await spent
    await settled
