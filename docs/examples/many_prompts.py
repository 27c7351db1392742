"""Many prompts, some at a time, with their progress; the answers come in the order of the prompts.

KEYWAY_URL=amqp://billing-bot:SERVICE_TOKEN@rabbitmq:5672/keyway python many_prompts.py < prompts.txt
"""

import asyncio
import os
import sys
from typing import Any

from contracts import GenerationResult, Keyway, Progress


def body(prompt: str) -> dict[str, Any]:
    """The provider's request body for a prompt."""
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": prompt}]}


def show(progress: Progress) -> None:
    """Show how far it has come."""
    print(f"\r{progress.done} of {progress.total}, {progress.failed} failed", end="", file=sys.stderr)


async def main() -> None:
    """Ask one prompt a line of standard input."""
    bodies = [body(line.strip()) for line in sys.stdin if line.strip()]
    async with Keyway(os.environ["KEYWAY_URL"]) as keyway:
        outcomes = await keyway.generate_many(
            "/chat/completions", bodies, concurrency=64, on_progress=show, timeout=300
        )
    print(file=sys.stderr)
    for outcome in outcomes:
        if isinstance(outcome, GenerationResult) and outcome.response:
            print(outcome.response["choices"][0]["message"]["content"])
        else:
            print(f"failed: {outcome}")


asyncio.run(main())
