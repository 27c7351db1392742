"""A document that can't be read harms itself alone: lists, gauges and batches have the others."""

import json
import secrets
from functools import partial
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from contracts.messages import KeyLease
from infra.alerts import Alert, AlertKind, list_alerts, raise_alert, resolve_over
from infra.duty import Duty
from infra.lanes import QueueWatch
from infra.mongo import Collection, Document
from infra.outbox import publish_outbox
from infra.price_registry import PriceRegistry
from infra.prices import Price, cost, load_prices, set_by_hand
from tests.harness import World
from tests.integration.test_alert_delivery import Phone
from tests.lessee import add_bot, signed_in
from workers.accounting.budgets import budgets_of
from workers.accounting.delivery import Courier
from workers.accounting.fleet import FleetReader
from workers.accounting.watch import Watch, thresholds_of
from workers.budgets.registry import BudgetRegistry, Subject
from workers.console.access.operators import Operators, Role
from workers.console.leases import LeaseFilter, LeaseList
from workers.console.model_totals import ModelTotals
from workers.console.usage_report import Days, Dimension, UsageReports


async def spoil(collection: Collection, document_id: str, **changes: Any) -> None:
    """Change a document by hand, as neither Keyway nor the schema would; a field of None is taken out."""
    update = {
        "$set": {name: value for name, value in changes.items() if value is not None},
        "$unset": {name: "" for name, value in changes.items() if value is None},
    }
    changed = await collection.update_one(
        {"_id": document_id},
        {operator: of for operator, of in update.items() if of},
        bypass_document_validation=True,
    )
    assert changed.modified_count == 1


def told(logs: list[Any]) -> list[tuple[str, str, str]]:
    """Which documents and fields were logged."""
    return [
        (event["collection"], event["document_id"], event["field"])
        for event in logs
        if event["event"] == "document_not_read"
    ]


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"label": None}, "label"), ({"limit_nanousd": "much"}, "limit"), ({"limit_nanousd": 0}, "limit")],
    ids=["missing", "wrong", "zero"],
)
async def test_a_budget_that_can_not_be_read_is_left_out_of_metrics_lists_and_books(
    shared: World, changes: dict[str, Any], field: str
) -> None:
    mongo = shared.mongo
    wrong, other = await shared.add_automation(), await shared.add_automation()
    registry = BudgetRegistry(mongo, "tests")
    for bot in (wrong, other):
        await registry.set(Subject(bot), "day", 1_000)
    identity = f"automation/day/{wrong}/{wrong}"
    await spoil(mongo.budgets, identity, **changes)
    now = await mongo.server_time()
    day = now.date().isoformat()
    with capture_logs() as logs:
        for _ in range(2):
            fleet = await FleetReader(mongo, QueueWatch(shared.admin)).read()
            assert fleet.books is not None
            of = {use.automation_id for use in fleet.books.budgets}
            assert (other in of, wrong in of) == (True, False)
        listed = {standing.budget.automation_id for standing in await registry.list()}
        assert listed & {wrong, other} == {other}
        rows = [
            {"automation_id": bot, "key_id": "k", "user_id": None, "model": "m", "day": day}
            for bot in (wrong, other)
        ]
        assert [budget.automation_id for budget, _ in await budgets_of(mongo, rows, now)] == [other]
    assert told(logs) == [("budgets", identity, field)]
    await mongo.budgets.delete_one({"_id": identity})


async def test_a_total_that_can_not_be_read_is_left_out_of_what_is_spent(shared: World) -> None:
    mongo = shared.mongo
    wrong, other = await shared.add_automation(), await shared.add_automation()
    registry = BudgetRegistry(mongo, "tests")
    day = (await mongo.server_time()).date().isoformat()
    for bot in (wrong, other):
        await registry.set(Subject(bot), "day", 1_000)
        await mongo.usage_daily.insert_one(
            {
                "_id": f"automation/{day}/{bot}/{bot}",
                "dimension": "automation",
                "day": day,
                "automation_id": bot,
                "cost_nanousd": 7 if bot == other else "much",
            }
        )
    with capture_logs() as logs:
        spent = {s.budget.automation_id: s.spent for s in await registry.list()}
        fleet = await FleetReader(mongo, QueueWatch(shared.admin)).read()
    assert (spent[other], spent[wrong]) == (7, 0)
    assert fleet.books is not None
    assert {each.id: each.cost_today for each in fleet.books.automations}[other] == 7
    assert told(logs) == [("usage_daily", f"automation/{day}/{wrong}/{wrong}", "cost_nanousd")]
    await mongo.usage_daily.delete_many({"automation_id": wrong})


async def test_a_total_that_can_not_be_read_is_left_out_of_lists_and_reports(shared: World) -> None:
    mongo = shared.mongo
    bot, wrong = await shared.add_automation(), f"user-{secrets.token_hex(4)}"
    today = (await mongo.server_time()).date()
    own: Document = {"day": today.isoformat(), "automation_id": bot, "attempts": 1, "cost_nanousd": 7}
    for dimension, subject in (("automation", bot), ("user", "right"), ("user", wrong)):
        identity = f"{dimension}/{today}/{bot}/{subject}"
        total = {**own, "_id": identity, "dimension": dimension, "subject": subject, "label": subject}
        await mongo.usage_daily.insert_one(total)
    await spoil(mongo.usage_daily, f"user/{today}/{bot}/{wrong}", attempts="many")
    reports = UsageReports(mongo, ModelTotals(mongo))
    with capture_logs() as logs:
        report = await reports.read(Dimension.USER, Days(today, today), bot)
        status, listed, errors = await shared.cli("usage", "--by", "user", "--automation", bot, "--json")
    assert [row.subject for row in report.rows] == ["right"]
    assert told(logs) == [("usage_daily", f"user/{today}/{bot}/{wrong}", "sums.attempts")]
    assert (status, [total["subject"] for total in json.loads(listed)]) == (0, ["right"]), errors
    assert wrong in errors
    await mongo.usage_daily.delete_many({"automation_id": bot})


async def test_a_price_that_can_not_be_read_is_left_out(shared: World) -> None:
    prices = PriceRegistry(shared.mongo, "tests")
    for model in ("model-wrong", "model-right"):
        await prices.set(model, Price(1_000_000, 1_000_000, 1_000_000))
    await spoil(shared.mongo.prices, "model-wrong", output="dear")
    with capture_logs() as logs:
        await load_prices(shared.mongo)
        assert cost("model-right", 5, 0, 0).nanousd == 5
        assert not cost("model-wrong", 5, 0, 0).known
        assert [price["_id"] for price in await prices.list()] == ["model-right"]
    assert set(told(logs)) == {("prices", "model-wrong", "output")}
    set_by_hand({})
    await shared.mongo.prices.delete_many({})


async def test_operators_and_leases_that_can_not_be_read_are_left_out_of_lists(shared: World) -> None:
    mongo = shared.mongo
    operators = Operators(mongo)
    for name in ("list-wrong", "list-right"):
        await operators.add(name, Role.VIEWER)
    await spoil(mongo.operators, "list-wrong", role="king")
    bot = await shared.add_automation()
    now = await mongo.server_time()
    lease: Document = {
        "automation_id": bot,
        "key_id": "key",
        "key_alias": "Primary",
        "model": None,
        "status": "closed",
        "granted_at": now,
        "expires_at": now,
        "tokens": 5,
        "reports": 0,
        "reported_tokens": 0,
    }
    await mongo.leases.insert_many([{**lease, "_id": f"{bot}-{number}"} for number in range(2)])
    await spoil(mongo.leases, f"{bot}-0", granted_at="yesterday")
    with capture_logs() as logs:
        names = {operator.username for operator in await operators.list()}
        leases = await LeaseList(mongo).read(LeaseFilter(bot), most=10)
    assert names & {"list-wrong", "list-right"} == {"list-right"}
    assert [each.lease_id for each in leases] == [f"{bot}-1"]
    assert told(logs) == [("operators", "list-wrong", ""), ("leases", f"{bot}-0", "granted_at")]
    await mongo.operators.delete_one({"_id": "list-wrong"})


async def test_an_alert_or_a_notice_that_can_not_be_read_keeps_no_other_from_its_list_and_its_end(
    unserved: World,
) -> None:
    mongo, now = unserved.mongo, await unserved.mongo.server_time()
    await mongo.alerts.delete_many({})
    await mongo.notices.delete_many({})

    async def raised(subject: str, kind: AlertKind = AlertKind.UNKNOWN_PRICE) -> str:
        alert = Alert(kind, None, subject, subject, "2026-03-10", f"about {subject}")
        await mongo.transaction(partial(raise_alert, mongo, alert, now))
        return alert.id

    wrong, other = await raised("wrong"), await raised("other")
    empty = [await raised(f"empty-{number}", AlertKind.POOL_EMPTY) for number in range(2)]
    await spoil(mongo.alerts, wrong, label=["none"])
    await spoil(mongo.alerts, empty[0], subject=None)
    notice = await mongo.notices.find_one({"alert_id": wrong})
    assert notice is not None
    await spoil(mongo.notices, notice["_id"], kind="none")
    duty = Duty(mongo, "unreadable", "tests")
    with capture_logs() as logs:
        listed = await list_alerts(mongo, everything=False, limit=10)
        assert {alert["_id"] for alert in listed} == {other, empty[1]}
        watch = Watch(mongo, QueueWatch(unserved.admin), duty, thresholds_of(unserved.settings))
        # It ends what no finding stands for any more.
        assert (AlertKind.POOL_EMPTY, "empty-1") in (await watch.look()).over
        assert await resolve_over(mongo, now) == 1
        phone = Phone("a")
        courier = Courier(mongo, duty, cast("Any", phone), ["a"])
        while await courier.deliver() == 0:
            pass
    assert "about other" in "".join(phone.bodies)
    assert set(told(logs)) == {
        ("alerts", wrong, "label"),
        ("alerts", empty[0], "subject"),
        ("notices", notice["_id"], "kind"),
    }


async def test_an_event_that_lacks_a_field_keeps_no_other_in_the_outbox(unserved: World) -> None:
    await unserved.mongo.outbox.insert_many(
        [{"_id": "wrong", "at": 1}, {"_id": "right", "at": 2, "type": "t"}]
    )
    published = []

    async def publish(event: Document) -> None:
        published.append(event["type"])

    await publish_outbox(unserved.mongo, publish)
    assert "t" in published
    assert await unserved.mongo.outbox.count_documents({}) == 0


async def test_who_asks_for_a_key_is_told_which_of_its_settings_can_not_be_read(world: World) -> None:
    await world.start_leasing()
    wrong, other = await add_bot(world), await add_bot(world)
    for bot in (wrong, other):
        await world.add_key(bot, "Primary")
    await spoil(world.mongo.automations, wrong, max_in_flight="many")
    async with signed_in(world, wrong) as refused, signed_in(world, other) as lent:
        code, message = await refused.refusal(model="gpt-4o-mini")
        assert isinstance(await lent.ask(model="gpt-4o-mini"), KeyLease)
    assert code == "internal"
    assert message.startswith("the automation's settings can't be read: max_in_flight: ")
