"""Whatever a provider answers is a failure of that call alone, booked and bounded."""

import asyncio
import json
import secrets
from collections import Counter

from pydantic import SecretStr
from structlog.testing import capture_logs

from tests.chaos.hostile_provider import hostile_provider
from tests.chaos.report import Report
from workers.generation.answers import Answer, Failure
from workers.generation.assembly import Assembly
from workers.generation.classification import LONGEST_COOL_MS
from workers.generation.upstream import Upstream

#: Requests that are under way side by side.
SIDE_BY_SIDE = 40
SECRET = SecretStr("sk-fuzz-0123456789abcdef")
CALL_TIMEOUT_S = 5.0


def body(*, is_stream: bool) -> bytes:
    asked = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
    return json.dumps({**asked, "stream": True} if is_stream else asked, separators=(",", ":")).encode()


async def test_five_thousand_hostile_answers_are_failures_of_their_calls(
    is_long: bool, report: Report
) -> None:
    count, seed = 50_000 if is_long else 5_000, secrets.randbits(32)
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
            assert len(json.dumps(answer.provider)) < 1_000_000, asked
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
