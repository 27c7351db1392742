"""Whatever a provider answers is a failure of that call alone, booked and bounded."""

import asyncio
import json
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
from aio_pika import Message
from aio_pika.abc import AbstractIncomingMessage
from pydantic import SecretStr
from structlog.testing import capture_logs

from contracts.messages import GenerationResult
from infra.bounds import MOST_TOKENS
from tests.chaos.hostile_provider import hostile_provider
from tests.chaos.report import Report
from tests.harness import World, eventually
from workers.generation.answers import Answer, Failure
from workers.generation.assembly import Assembly
from workers.generation.classification import LONGEST_COOL_MS
from workers.generation.upstream import Upstream

KEYS = 20
#: Requests that are under way side by side.
SIDE_BY_SIDE = 40
#: What a worker may use while it is lied to, in bytes: less than all that the provider sends.
MOST_MEMORY = 700 * 1024 * 1024
SECRET = SecretStr("sk-fuzz-0123456789abcdef")
CALL_TIMEOUT_S = 5.0
#: Events of a worker's log that tell of a fault of ours.
FAULTS = {"request_failed_inside", "provider_call_failed", "task_failed", "task_restarted"}
#: Ends that a hostile provider may bring about.
ENDS = {
    *("succeeded", "provider_rejected", "provider_unavailable", "no_usable_key", "keys_exhausted"),
    "deadline_exceeded",
}


def body(*, is_stream: bool) -> bytes:
    asked = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
    return json.dumps({**asked, "stream": True} if is_stream else asked, separators=(",", ":")).encode()


async def test_hostile_answers_are_failures_of_their_calls(is_long: bool, seed: int, report: Report) -> None:
    count = 50_000 if is_long else 400
    outcomes: Counter[str] = Counter()
    upstream = Upstream(SIDE_BY_SIDE)

    async def take(_: object) -> None:
        pass

    async def ask(base_url: str, number: int) -> None:
        is_stream = number % 2 == 1
        asked = f"seed {seed}, r-{number}"
        path, content = "/chat/completions", body(is_stream=is_stream)
        answer: Answer | Failure
        if is_stream:
            assembly = Assembly(hides_usage=True)
            answer = await upstream.stream(
                base_url,
                SECRET,
                path,
                content,
                request_id=f"r-{number}",
                timeout_s=CALL_TIMEOUT_S,
                assembly=assembly,
                pass_on=take,
            )
        else:
            answer = await upstream.call(
                base_url, SECRET, path, content, request_id=f"r-{number}", timeout_s=CALL_TIMEOUT_S
            )
        if isinstance(answer, Failure):
            outcomes[answer.verdict.outcome] += 1
            assert 0 <= answer.verdict.cool_ms <= LONGEST_COOL_MS, asked
            assert len(answer.message) <= 2000, asked
            assert len(orjson.dumps(answer.provider)) < 1_000_000, asked
        else:
            outcomes["ok"] += 1
        assert SECRET.get_secret_value() not in repr(answer)

    async def ask_some(base_url: str, first: int) -> None:
        for number in range(first, count, SIDE_BY_SIDE):
            await ask(base_url, number)

    with capture_logs() as logs:
        async with hostile_provider(seed) as (provider, astray), asyncio.TaskGroup() as tasks:
            for first in range(SIDE_BY_SIDE):
                tasks.create_task(ask_some(provider.base_url, first))
    await upstream.close()
    assert not logs, f"seed {seed}"
    assert not astray, f"seed {seed}: a redirect was followed"
    assert outcomes["ok"] > count / 20, outcomes
    assert len(outcomes) >= 8, outcomes
    report.tell(seed=seed, answers=count, outcomes=dict(sorted(outcomes.items())))


def peak_memory(process: int) -> int:
    """The most memory that a process has used, in bytes."""
    status = Path(f"/proc/{process}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


class Results:
    """The terminal results that came, by request."""

    def __init__(self) -> None:
        self.codes: dict[str, list[str]] = {}

    async def take(self, message: AbstractIncomingMessage) -> None:
        if message.type != "generation.result.v1":
            return
        result = GenerationResult.model_validate_json(message.body)
        code = result.status if result.error is None else str(result.error.code)
        self.codes.setdefault(result.request_id, []).append(code)


@asynccontextmanager
async def reviving(world: World, bot: str) -> AsyncIterator[None]:
    """Bring keys back that the provider had stopped, so that it is asked again and again."""
    task = asyncio.create_task(revive(world, bot))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def revive(world: World, bot: str) -> None:
    while True:
        await world.mongo.keys.update_many(
            {"automation_id": bot},
            {
                "$set": {"status": "active", "status_until": None, "health.failures": 0},
                "$unset": {"cooled_until": "", "denied_models": "", "reported": "", "probe": ""},
            },
        )
        await asyncio.sleep(0.1)


async def test_a_hostile_provider_harms_no_worker_and_no_other_automation(
    world: World, is_long: bool, seed: int, report: Report
) -> None:
    count = 1_000 if is_long else 60
    bot, neighbour = await world.add_automation(), await world.add_automation()
    await world.add_key(neighbour, "Primary")
    # Some answers never end.
    await world.mongo.automations.update_one({"_id": bot}, {"$set": {"call_timeout_s": 5 if is_long else 2}})
    worker, accounting = await world.start_worker(), await world.start_accounting()
    results = Results()
    async with hostile_provider(seed) as (provider, astray):
        for number in range(KEYS):
            secret = SecretStr(f"sk-hostile-{number:04}-{secrets.token_hex(8)}")
            await world.keys.add(bot, f"Key {number}", secret, base_url=provider.base_url)
        async with (
            reviving(world, bot),
            world.connection.channel() as channel,
            world.client(neighbour) as keyway,
        ):
            queue = await channel.declare_queue(f"replies.{bot}.fuzz", durable=True)
            await queue.consume(results.take, no_ack=True)
            requests = await channel.get_exchange("requests", ensure=False)
            for number in range(count):
                content = json.loads(body(is_stream=number % 2 == 1))
                message = Message(
                    json.dumps({"path": "/chat/completions", "body": content}).encode(),
                    message_id=f"r-{number}",
                    reply_to=queue.name,
                    expiration=60,
                )
                await requests.publish(message, bot)

            async def all_have_ended() -> bool:
                asked = await keyway.generate("/moderations", input="hello", timeout=120)
                assert asked.status == "succeeded"
                return len(results.codes) == count

            try:
                await eventually(
                    all_have_ended, "an end of each request", within_s=900 if is_long else 120, every_s=0.2
                )
            except AssertionError:
                missing = sorted({f"r-{number}" for number in range(count)} - set(results.codes))
                pytest.fail(f"seed {seed}: no end of {len(missing)} of {count}, such as {missing[:3]}")
            memory = peak_memory(worker.process.pid)
        seen = provider.calls

        # An attempt on a connection that was just closed is booked too; the provider never saw it.
        async def all_are_booked() -> bool:
            return Counter(row["request_id"] for row in await world.ledger(bot)) >= seen

        await eventually(all_are_booked, f"a ledger row of each call; seed {seed}")
        rows = await world.ledger(bot)
    ends = Counter(code for codes in results.codes.values() for code in codes)
    assert set(ends) <= ENDS, f"seed {seed}: {ends}"
    assert ends.total() == count, f"seed {seed}: a request ended twice"
    for row in rows:
        for name in ("prompt_tokens", "completion_tokens", "total_tokens", "latency_ms", "cost_nanousd"):
            assert 0 <= row[name] <= MOST_TOKENS * 1_000_000, (seed, row)
    assert not astray, f"seed {seed}: a redirect was followed"
    await world.assert_books_equal_journal(neighbour)
    for service in (worker, accounting):
        assert service.process.returncode is None
        assert not [event for event in service.events() if event["event"] in FAULTS], f"seed {seed}"
        assert "Traceback" not in service.log.read_text(), f"seed {seed}"
        assert "sk-hostile-" not in service.log.read_text()
    assert memory < MOST_MEMORY, f"seed {seed}: {memory}"
    report.tell(seed=seed, requests=count, calls=seen.total(), ends=dict(sorted(ends.items())), memory=memory)
