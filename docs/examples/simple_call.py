"""One prompt, one answer.

KEYWAY_URL=amqp://billing-bot:SERVICE_TOKEN@rabbitmq:5672/keyway python simple_call.py
"""

import asyncio
import os
import sys

from contracts import GenerationError, Keyway


async def main() -> None:
    """Ask, and say what it cost or why it failed."""
    async with Keyway(os.environ["KEYWAY_URL"]) as keyway:
        try:
            result = await keyway.generate(
                "/chat/completions",
                model="gpt-4o-mini",
                messages=[{"role": "user", "content": "hello"}],
                user="u-42",
                timeout=60,
            )
        except GenerationError as error:
            again = f"again at {error.retry_at or 'any time'}" if error.retryable else "not again"
            sys.exit(f"{error.code}: {error} ({again})")
    if result.response:
        print(result.response["choices"][0]["message"]["content"])
    print(f"{result.usage.total_tokens} tokens, {result.cost_nanousd / 1e9:.6f} USD, key {result.key_alias}")


asyncio.run(main())
