"""The fleet as gauges: what is not known is not told, and many budgets become few."""

from unittest.mock import AsyncMock

from prometheus_client import generate_latest

from infra.lanes import Age, QueueState
from infra.metrics import Exposition
from workers.accounting.fleet import Automation, Books, Fleet, FleetReader, Queues, fullest
from workers.accounting.fleet_metrics import FRESH_S, FleetMetrics, families
from workers.budgets.budget import Budget, Scope
from workers.keys.key import Limits
from workers.keys.loads import KeyLoad

NOW = 1_800_000_000.0
TODAY = "2027-01-15"
QUEUE = QueueState(waiting=3, in_hand=2, consumers=1, published=9, publish_rate=0.0, deliver_rate=0.0)


def samples(fleet: Fleet) -> dict[str, dict[tuple[str, ...], float]]:
    """By name without the prefix, and the values of labels."""
    return {
        family.name.removeprefix("keyway_"): {
            tuple(sample.labels.values()): sample.value for sample in family.samples
        }
        for family in families(fleet)
    }


def load(alias: str, *, status: str = "active", limits: Limits | None = None, requests: int = 0) -> KeyLoad:
    usable = status == "active"
    return KeyLoad("bot", alias, status, usable, limits or Limits(), requests, 50, 50, 2, 40, 0.5, 0.1)


def budget(subject: str, spent: int, scope: Scope = "user", soft_percent: int = 80) -> Budget:
    return Budget(
        f"{scope}/{subject}",
        scope,
        "bot",
        subject,
        subject,
        "day",
        100,
        soft_percent,
        True,
        TODAY,
        spent,
        0,
        NOW,
    )


def books(*keys: KeyLoad, budgets: tuple[Budget, ...] = ()) -> Books:
    automations = [
        Automation("bot", True, False, 12.0, 1, 5 * 10**9),
        Automation("off", False, True, 99.0, 0, 0),
        Automation("new", True, False, None, 0, 0),
    ]
    return Books(automations, list(keys), fullest(budgets, NOW), 2, {"key_error": 1})


def test_what_could_not_be_read_is_not_told() -> None:
    told = samples(Fleet())
    assert told.pop("fleet_up") == {("mongodb",): 0, ("rabbitmq",): 0}
    assert not any(told.values())
    told = samples(Fleet(books(), None))
    assert told["fleet_up"] == {("mongodb",): 1, ("rabbitmq",): 0}
    assert (told["lane_waiting"], told["workers_alive"]) == ({}, {(): 2})


def test_keys_are_told_with_their_status_and_the_limits_that_they_have() -> None:
    limits = Limits(requests_per_minute=10, tokens_per_day=200)
    told = samples(Fleet(books(load("A", limits=limits, requests=4), load("B", status="error"))))
    assert told["key_status"]["bot", "A", "active"] == 1
    assert told["key_status"]["bot", "B", "active"] == 0
    assert told["key_status"]["bot", "B", "error"] == 1
    assert told["key_utilisation_ratio"] == {
        ("bot", "A", "requests_per_minute"): 0.4,
        ("bot", "A", "tokens_per_day"): 0.25,
    }
    assert told["pool_keys"] == {("bot",): 2, ("new",): 0}
    assert told["pool_usable_keys"] == {("bot",): 1, ("new",): 0}


def test_silence_is_told_of_automations_that_are_enabled_and_ever_spoke() -> None:
    told = samples(Fleet(books()))
    assert told["automation_silent_seconds"] == {("bot",): 12.0}
    assert told["lane_paused"] == {("bot",): 0, ("off",): 1, ("new",): 0}
    assert told["cost_today_usd"]["bot",] == 5


def test_of_users_budgets_only_the_fullest_is_told_and_no_user() -> None:
    users = (budget("u-1", 10), budget("u-2", 45, soft_percent=50), budget("u-3", 60))
    told = samples(Fleet(books(budgets=(*users, budget("bot", 30, "automation")))))
    assert told["budget_spent_ratio"] == {
        ("bot", "user", "", "day"): 0.45,
        ("bot", "automation", "", "day"): 0.3,
    }
    assert told["budget_soft_ratio"]["bot", "user", "", "day"] == 0.5


def test_a_budget_of_a_period_that_is_over_has_nothing_spent() -> None:
    (use,) = fullest([budget("bot", 90, "automation")], NOW + 24 * 3600)
    assert use.spent_ratio == 0


def test_lanes_dead_letters_and_the_ledger_are_told_by_their_queues() -> None:
    states = {"requests.bot": QUEUE, "accounting": QUEUE, "dead": QUEUE, "replies.bot.later": QUEUE}
    told = samples(Fleet(None, Queues(states, {"requests.bot": Age(7.0, at_least=False)})))
    assert (told["lane_waiting"], told["lane_in_hand"]) == ({("bot",): 3}, {("bot",): 2})
    assert told["lane_oldest_seconds"] == {("bot",): 7.0}
    assert (told["ledger_waiting"], told["ledger_oldest_seconds"]) == ({(): 5}, {(): 0.0})
    assert told["dead_letters"] == {(): 5}


async def test_the_fleet_is_read_at_most_once_in_a_while_however_often_one_asks() -> None:
    exposition, reader = Exposition("accounting"), AsyncMock(spec=FleetReader)
    reader.read.return_value = Fleet(books())
    metrics = FleetMetrics(exposition, reader)
    for _ in range(3):
        await metrics._refresh()
    assert reader.read.await_count == 1
    assert b'keyway_fleet_up{source="mongodb"} 1.0' in generate_latest(exposition.registry)
    metrics._read_at -= FRESH_S
    await metrics._refresh()
    assert reader.read.await_count == 2
