"""Which key serves which request: pure decisions over views of the keys."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from operator import itemgetter
from typing import TypeAlias

from infra.prices import cost
from workers.budgets.budget import Budget, next_period_at
from workers.keys.health import health_rank
from workers.keys.key import Key
from workers.keys.limits import (
    SOON_S,
    Room,
    available_at,
    chargeable,
    comes_back_at,
    is_spent,
    model_room,
    model_utilisation,
    room,
    utilisation,
)

#: Asks of one round stay with a key, since each key costs the round an update: up to so many, and while its
#: utilisation is no higher than the best one's by more than this share.
TOGETHER = 16
NEARLY = 0.005
#: How a key is preferred for an ask, the lowest first; `_Candidate.preference` says of what.
Preference: TypeAlias = tuple[bool, int, float, tuple[int, int], int, float]
#: No key has a budget.
NO_BUDGETS: Mapping[str, Sequence[Budget]] = {}


class RefusalReason(StrEnum):
    """Why no key will serve a request before its deadline."""

    DEADLINE_PASSED = "deadline_passed"
    NO_KEYS = "no_keys"
    NO_USABLE_KEY = "no_usable_key"
    MODEL_UNAVAILABLE = "model_unavailable"
    KEYS_EXHAUSTED = "keys_exhausted"
    BUDGET_SPENT = "budget_spent"
    PROVIDER_FAILING = "provider_failing"
    NO_CAPACITY = "no_capacity"


@dataclass(frozen=True, slots=True)
class Refusal:
    """No key before the deadline; `retry_at` is when one may have room, in seconds since the epoch.

    `detail` says which budget is spent.
    """

    reason: RefusalReason
    retry_at: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Later:
    """There may be a key before the deadline, but not before the ask's patience ends.

    `at` is when, in seconds since the epoch.
    """

    at: float


@dataclass(frozen=True, slots=True)
class Ask:
    """One request's need of a key.

    Attributes:
        model: the provider's model, where the request names one.
        tokens: the estimate of input and output together.
        deadline: no call starts after it, in seconds since the epoch.
        avoid: ids of keys that failed this request already; taken only when there is no other.
        patience_until: how long it may be kept waiting here, in seconds since the epoch.
        input_tokens: how many of the tokens are input; None: nobody knows.
        user_id: whose budget it counts in, beside the automation's and the key's.
    """

    model: str | None
    tokens: int
    deadline: float
    avoid: frozenset[str] = frozenset()
    patience_until: float = math.inf
    input_tokens: int | None = None
    user_id: str | None = None

    @property
    def cost_nanousd(self) -> int:
        """What the call may cost, in nano-USD; 0 where the model has no price."""
        model = self.model or ""
        if self.input_tokens is not None:
            return cost(model, self.input_tokens, self.tokens - self.input_tokens, 0).nanousd
        return max(cost(model, self.tokens, 0, 0).nanousd, cost(model, 0, self.tokens, 0).nanousd)


@dataclass(slots=True)
class Plan:
    """What to reserve, by key id, as indices of the asks; whom to refuse or put off; when to look again."""

    reserve: dict[str, list[int]] = field(default_factory=dict)
    refuse: dict[int, Refusal] = field(default_factory=dict)
    put_off: dict[int, Later] = field(default_factory=dict)
    look_again_at: float | None = None

    @property
    def calls(self) -> int:
        """How many calls are to be reserved."""
        return sum(map(len, self.reserve.values()))


@dataclass(slots=True)
class _Candidate:
    key: Key
    left: Room
    budgets: Sequence[Budget] = ()
    left_of_models: dict[str | None, Room] = field(default_factory=dict)
    taken: int = 0
    taken_nanousd: int = 0

    def left_of(self, model: str | None, now: float) -> Room:
        left = self.left_of_models.get(model)
        if left is None:
            left = self.left_of_models[model] = model_room(self.key, model, now)
        return left

    def fits(self, ask: Ask, now: float) -> bool:
        tokens = chargeable(self.key, ask.tokens, ask.model, now)
        has_room = self.left.fits(tokens) and self.left_of(ask.model, now).fits(tokens)
        return has_room and self.is_within_budgets(ask, now)

    def is_within_budgets(self, ask: Ask, now: float) -> bool:
        return all(budget.fits(ask.cost_nanousd, now, self.taken_nanousd) for budget in self.budgets)

    def spent_budgets(self, ask: Ask, now: float) -> list[Budget]:
        return [budget for budget in self.budgets if budget.is_spent(ask.cost_nanousd, now)]

    def take(self, ask: Ask, now: float) -> None:
        tokens = chargeable(self.key, ask.tokens, ask.model, now)
        self.left.take(tokens)
        self.left_of(ask.model, now).take(tokens)
        self.taken += 1
        if self.budgets:
            self.taken_nanousd += ask.cost_nanousd

    def available_at(self, ask: Ask, now: float) -> float:
        moment = available_at(self.key, chargeable(self.key, ask.tokens, ask.model, now), ask.model, now)
        for budget in self.spent_budgets(ask, now):
            moment = max(moment, next_period_at(budget.window, now))
        return moment if self.is_within_budgets(ask, now) else max(moment, now + SOON_S)

    def utilisation(self, ask: Ask, now: float) -> float:
        reported = self.key.reported_for(ask.model, now)
        of_model = model_utilisation(reported, self.left_of(ask.model, now))
        return max(utilisation(self.key, self.left), of_model)

    def preference(self, ask: Ask, now: float) -> Preference:
        """Order among keys that have room: tier, lowest utilisation, best health, least recently used."""
        key = self.key
        return (
            key.id in ask.avoid,
            key.tier,
            self.utilisation(ask, now),
            health_rank(key),
            self.taken + key.held_calls,
            key.last_used_at,
        )


def plan(
    asks: Sequence[Ask],
    keys: Iterable[Key],
    now: float,
    *,
    slots: int | None = None,
    budgets: Mapping[str, Sequence[Budget]] = NO_BUDGETS,
) -> Plan:
    """Assign keys to the asks, first come first served.

    An ask that has to wait keeps the keys that could serve it from those behind it, so that a large request
    is not overtaken for ever by small ones.

    Args:
        asks: in the order of their arrival.
        keys: every key of the automation.
        now: the server's time, in seconds since the epoch.
        slots: how many more calls the automation's own cap allows; None: it has none.
        budgets: of the keys that have some, by key id.
    """
    candidates = [_Candidate(key, room(key, now), budgets.get(key.id, ())) for key in keys]
    result = Plan()
    kept_until: dict[str, float] = {}
    last: _Candidate | None = None
    for index, ask in enumerate(asks):
        eligible, refusal = _eligible(ask, candidates, now)
        if refusal is not None:
            result.refuse[index] = refusal
            continue
        chosen = None
        if slots != 0:
            chosen = _choose(ask, [c for c in eligible if c.key.id not in kept_until], last, now)
        if chosen is not None:
            last = chosen
            chosen.take(ask, now)
            slots = None if slots is None else slots - 1
            result.reserve.setdefault(chosen.key.id, []).append(index)
            continue
        available = min(max(c.available_at(ask, now), kept_until.get(c.key.id, now)) for c in eligible)
        if slots == 0:
            available = max(available, now + SOON_S)
        if available > ask.deadline:
            result.refuse[index] = _too_late(ask, eligible, available, now)
            continue
        for candidate in eligible:
            kept_until.setdefault(candidate.key.id, available)
        if max(available, now) >= ask.patience_until:
            result.put_off[index] = Later(available)
            continue
        result.look_again_at = min(available, ask.deadline, result.look_again_at or available)
    return result


def _eligible(ask: Ask, candidates: list[_Candidate], now: float) -> tuple[list[_Candidate], Refusal | None]:
    """The keys that could serve the ask, now or later; or why there is none."""
    if ask.deadline <= now:
        return [], Refusal(RefusalReason.DEADLINE_PASSED)
    if not candidates:
        return [], Refusal(RefusalReason.NO_KEYS)
    alive = [c for c in candidates if not c.key.is_refused(now)]
    if not alive:
        return [], Refusal(RefusalReason.NO_USABLE_KEY)
    allowed = [c for c in alive if allows(c.key.denied_models, ask.model, now)]
    if not allowed:
        return [], Refusal(RefusalReason.MODEL_UNAVAILABLE)
    spent = [c.spent_budgets(ask, now) for c in allowed]
    if all(spent):
        return [], over_budget(min(spent, key=lambda budgets: _over_at(budgets, now)), ask, now)
    return allowed, None


def over_budget(spent: Sequence[Budget], ask: Ask, now: float) -> Refusal:
    """What an ask is told that budgets have no room for, until the last of them starts anew."""
    last = max(spent, key=lambda budget: next_period_at(budget.window, now))
    return Refusal(
        RefusalReason.BUDGET_SPENT, next_period_at(last.window, now), last.refusal(ask.cost_nanousd, now)
    )


def _over_at(spent: Sequence[Budget], now: float) -> float:
    return max(next_period_at(budget.window, now) for budget in spent)


def allows(denied: Mapping[str, float], model: str | None, now: float) -> bool:
    """Whether a key may use a model, by the models that it may not until then."""
    return model is None or denied.get(model, 0.0) <= now


def _choose(ask: Ask, eligible: list[_Candidate], last: _Candidate | None, now: float) -> _Candidate | None:
    """The best key; or the one before's, where that is nearly as good and has not many yet."""
    free = {
        c.key.id: (c.preference(ask, now), c)
        for c in eligible
        if c.key.may_be_called(now) and c.fits(ask, now)
    }
    if not free:
        return None
    best, chosen = min(free.values(), key=itemgetter(0))
    if last is not None and last.taken < TOGETHER and last.key.id in free:
        lasts, _ = free[last.key.id]
        if _is_nearly(lasts, best):
            return last
    return chosen


def _is_nearly(preference: Preference, best: Preference) -> bool:
    """Whether a key serves an ask as well as the best one does, but for a trace of its utilisation."""
    return preference[:2] == best[:2] and preference[2] <= best[2] + NEARLY and preference[3] <= best[3]


def _too_late(ask: Ask, eligible: list[_Candidate], available: float, now: float) -> Refusal:
    """Every key is out of its day's tokens or its quota; or every one fails; or some are merely busy."""
    if all(
        is_spent(c.key, chargeable(c.key, ask.tokens, ask.model, now), now) or c.spent_budgets(ask, now)
        for c in eligible
    ):
        reason = RefusalReason.KEYS_EXHAUSTED
    elif all(c.key.is_failing() for c in eligible):
        reason = RefusalReason.PROVIDER_FAILING
    else:
        reason = RefusalReason.NO_CAPACITY
    if math.isinf(available):
        available = min(comes_back_at(c.key, c.available_at(ask, now), now) for c in eligible)
    return Refusal(reason, available if math.isfinite(available) else None)
