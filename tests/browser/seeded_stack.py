"""A Keyway with a past and with traffic, for looking at the console: every page has something to show."""

import asyncio
import random
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import SecretStr

from contracts import KeywayError
from infra.money import nanousd
from tests.builders import ledger_row
from tests.collector import Collector
from tests.harness import World
from workers.accounting.totals import total_updates
from workers.budgets.budget import WINDOWS
from workers.budgets.registry import BudgetRegistry, Subject
from workers.console.access.audit import AuditLog
from workers.console.access.operators import Operators, Role
from workers.console.budget_changes import BudgetChanges
from workers.keys.key import Limits

PASSWORD = SecretStr("correct horse battery staple")
DAYS = 30
#: Models, and what a thousand tokens of each cost on average, in nano-USD.
MODELS = {
    "gpt-4o-mini": 300_000,
    "gpt-4o": 5_000_000,
    "gpt-4.1-mini": 800_000,
    "text-embedding-3-small": 20_000,
}
AUTOMATIONS = {
    "campaign-mails": ("gpt-4o", 260),
    "invoice-reader": ("gpt-4.1-mini", 420),
    "product-texts": ("gpt-4o", 150),
    "review-sorter": ("gpt-4o-mini", 900),
    "support-replies": ("gpt-4o-mini", 640),
    "ticket-search": ("text-embedding-3-small", 1500),
}
CALM = {"latency_ms": {"mean": 420, "sigma": 0.5}}
#: Keys: automation, alias, limits, and what the provider does with it.
KEYS: tuple[tuple[str, str, Limits, dict[str, Any]], ...] = (
    ("campaign-mails", "Primary", Limits(60, 40_000, 2_000_000), CALM),
    ("campaign-mails", "Team EU", Limits(30, 20_000), {**CALM, "error_rate": 0.2}),
    ("invoice-reader", "Primary", Limits(120, 90_000, 400_000), CALM),
    ("invoice-reader", "Old account", Limits(60, 30_000), {"invalid": True}),
    ("product-texts", "Agency", Limits(20, 30_000), CALM),
    ("product-texts", "Trial", Limits(20, 10_000), {"quota_exhausted": True}),
    ("review-sorter", "Primary", Limits(200, 120_000), {"latency_ms": {"mean": 180, "sigma": 0.4}}),
    ("review-sorter", "Spare", Limits(200, 120_000), CALM),
    ("support-replies", "Primary", Limits(90, 60_000, 5_000_000), CALM),
    ("support-replies", "Night shift", Limits(90, 60_000), CALM),
    ("ticket-search", "Primary", Limits(600, 500_000), {"latency_ms": 60}),
)
#: USD that automations may spend a day and a month.
BUDGETS: dict[str, tuple[str | None, str | None]] = {
    "campaign-mails": ("1.50", "25"),
    "invoice-reader": ("0.75", None),
    "product-texts": ("2", "18"),
    "review-sorter": ("0.80", "12"),
    "support-replies": ("0.25", "4"),
}
#: Keys that are lent: automation, alias, model, tokens, and how many are reported.
LENT = (
    ("review-sorter", "Spare", "gpt-4o-mini", 20_000, 4_310),
    ("ticket-search", "Primary", None, 5_000, 0),
)
ANN = "console:ann"
USERS = ("anna@example.org", "ben@example.org", "carla@example.org", "shop-frontend", "crm")


async def seed(world: World) -> None:
    """Operators, automations with keys, and a month of books."""
    operators = Operators(world.mongo)
    for username, role in (("ann", Role.ADMIN), ("victor", Role.VIEWER)):
        await operators.add(username, role)
        await operators.set_password(username, PASSWORD)
    for name in AUTOMATIONS:
        await world.add_automation(name)
    for automation, alias, limits, script in KEYS:
        await world.add_key(automation, alias, script, limits=limits)
    reason = "no night shift this week"
    await world.keys.set_status("support-replies", "Night shift", "disabled", reason)
    await _write_books(world)
    await _set_budgets(world)
    await _lend_keys(world)
    await _write_audit_log(world, reason)


async def _set_budgets(world: World) -> None:
    budgets = BudgetChanges(BudgetRegistry(world.mongo, ANN), AuditLog(world.mongo), ANN)
    for automation, (daily, monthly) in BUDGETS.items():
        for window, limit in zip(WINDOWS, (daily, monthly), strict=True):
            if limit is not None:
                await budgets.set(Subject(automation), window, nanousd(limit))
    await budgets.set(Subject("support-replies", key="Night shift"), "day", nanousd("0.25"), hard=False)
    await budgets.set(Subject("support-replies", user="crm"), "month", nanousd("0.60"), soft_percent=50)


async def _lend_keys(world: World) -> None:
    """Keys that two automations have for a while."""
    now = datetime.now(UTC)
    for automation, alias, model, tokens, reported in LENT:
        key = await world.key(automation, alias)
        await world.provisioner.change(automation, {"allow_leases": True}, actor=ANN)
        lease = {
            "_id": f"lease-{secrets.token_hex(12)}",
            "automation_id": automation,
            "key_id": key["_id"],
            "key_alias": alias,
            "model": model,
            "tokens": tokens,
            "status": "open",
            "reports": 1 if reported else 0,
            "reported_tokens": reported,
            "granted_at": now - timedelta(minutes=4),
            "expires_at": now + timedelta(minutes=26),
        }
        await world.mongo.leases.insert_one(lease)


async def _write_audit_log(world: World, reason: str) -> None:
    """What the console would have noted of the changes above."""
    audit = AuditLog(world.mongo)
    await audit.write("cli:root", "operator.added", "ann", after={"role": "admin"})
    await audit.write(ANN, "operator.added", "victor", after={"role": "viewer"})
    for name in AUTOMATIONS:
        await audit.write(ANN, "automation.added", name, after={"deadline_s": 600})
    before, after = {"status": "active"}, {"status": "disabled", "reason": reason}
    target = "support-replies/Night shift"
    await audit.write(ANN, "key.disabled", target, before=before, after=after)


async def _write_books(world: World) -> None:
    chance = random.Random(7)
    now = datetime.now(UTC)
    rows: list[dict[str, Any]] = []
    keys = [key async for key in world.mongo.keys.find({}, {"automation_id": 1, "alias": 1})]
    for ago in range(DAYS, -1, -1):
        day = now - timedelta(days=ago)
        for automation, (model, calls) in AUTOMATIONS.items():
            weekend = 0.35 if day.weekday() >= 5 else 1.0
            own = [key for key in keys if key["automation_id"] == automation]
            for number in range(12):
                used = MODELS[model if chance.random() < 0.8 else "gpt-4o-mini"]
                tokens = int(calls * weekend * chance.uniform(20, 60) * (1.4 - ago / DAYS * 0.6))
                key = chance.choice(own)
                row = ledger_row(
                    event_id=f"seed-{ago}-{automation}-{number}:1",
                    request_id=f"seed-{ago}-{automation}-{number}",
                    automation_id=automation,
                    user_id=chance.choice(USERS),
                    key_id=key["_id"],
                    key_alias=key["alias"],
                    model=next(name for name, price in MODELS.items() if price == used),
                    prompt_tokens=tokens * 2 // 3,
                    completion_tokens=tokens - tokens * 2 // 3,
                    total_tokens=tokens,
                    cost_nanousd=tokens * used // 1000,
                    latency_ms=int(chance.lognormvariate(6, 0.4)),
                    occurred_at=day - timedelta(minutes=30 + number),
                )
                rows.append(row)
    await world.mongo.usage.insert_many(rows)
    await world.mongo.usage_daily.bulk_write(total_updates(rows))


@asynccontextmanager
async def traffic(world: World) -> AsyncIterator[None]:
    """Requests of all automations, for as long as the context lasts."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_ask_on(world, automation)) for automation in AUTOMATIONS]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def _ask_on(world: World, automation: str) -> None:
    chance = random.Random(automation)
    model, calls = AUTOMATIONS[automation]
    async with world.client(automation) as keyway, asyncio.TaskGroup() as group:
        while True:
            body = {
                "model": model,
                "messages": [{"role": "user", "content": "Hello " * chance.randint(5, 90)}],
            }
            path = "/chat/completions"
            if model.startswith("text-embedding"):
                path, body = "/embeddings", {"model": model, "input": "how do I return an item?"}
            group.create_task(_ask(keyway, path, body, chance.choice(USERS)))
            await asyncio.sleep(chance.expovariate(calls / 600))


async def _ask(keyway: Any, path: str, body: dict[str, Any], user: str) -> None:
    with suppress(KeywayError):
        await keyway.generate(path, body, user=user)


async def trouble(world: World) -> None:
    """Dead letters, and a lane that is paused with requests in it."""
    async with Collector(world, "product-texts") as collector:
        for number in range(3):
            await collector.ask(f"order-{4711 + number}", b'{"path": "/chat/complete", "body": {}}')
        await collector.ask(f"promo-{secrets.token_hex(2)}", b"not json at all")
    await world.provisioner.set_paused("ticket-search", paused=True, actor=ANN)
    before, after = {"paused": False}, {"paused": True}
    audit = AuditLog(world.mongo)
    await audit.write(ANN, "automation.changed", "ticket-search", before=before, after=after)
