"""An answer as it is written.

KEYWAY_URL=amqp://billing-bot:SERVICE_TOKEN@rabbitmq:5672/keyway python streaming.py
"""

import asyncio
import os

from contracts import Keyway


async def main() -> None:
    """Print each piece as it comes."""
    async with (
        Keyway(os.environ["KEYWAY_URL"]) as keyway,
        keyway.stream(
            "/chat/completions",
            model="gpt-4o-mini",
            messages=[{"role": "user", "content": "Tell me about queues."}],
        ) as stream,
    ):
        async for chunk in stream:
            if chunk.restarted:
                print("\n(from the start again)")
            for choice in chunk.data["choices"]:
                print(choice["delta"].get("content") or "", end="", flush=True)
    if stream.result:
        print(f"\n{stream.result.usage.total_tokens} tokens")


asyncio.run(main())
