"""A borrowed API key, for what the queue can't carry; `pip install keyway[direct,openai]`.

KEYWAY_URL=amqp://billing-bot:SERVICE_TOKEN@rabbitmq:5672/keyway python direct_key.py
"""

import asyncio
import os

from openai import AsyncOpenAI

from contracts import Keyway


async def main() -> None:
    """Borrow a key, use it, and report what was used."""
    async with (
        Keyway(os.environ["KEYWAY_URL"]) as keyway,
        await keyway.lease("gpt-4o-mini", estimated_tokens=2000, ttl_s=120) as lease,
        AsyncOpenAI(api_key=lease.api_key.get_secret_value(), base_url=lease.base_url) as openai,
    ):
        completion = await openai.chat.completions.create(
            model="gpt-4o-mini", messages=[{"role": "user", "content": "hello"}]
        )
        print(completion.choices[0].message.content)
        if completion.usage:
            await lease.report(
                model=completion.model,
                prompt_tokens=completion.usage.prompt_tokens,
                completion_tokens=completion.usage.completion_tokens,
            )
    print(f"reported on lease {lease.lease_id} of key {lease.key_alias}")


asyncio.run(main())
