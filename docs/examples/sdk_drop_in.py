"""A program that uses the OpenAI SDK, moved to Keyway by one line: the SDK's HTTP client.

KEYWAY_URL=amqp://billing-bot:SERVICE_TOKEN@rabbitmq:5672/keyway python sdk_drop_in.py
"""

import os

from openai import OpenAI
from pydantic import BaseModel

from contracts.openai_transport import sync_keyway_http_client


class Invoice(BaseModel):
    """What is read out of a letter."""

    sender: str
    amount: float


# It was OpenAI() before.
client = OpenAI(api_key="-", http_client=sync_keyway_http_client(os.environ["KEYWAY_URL"]))

completion = client.chat.completions.create(
    model="gpt-4o-mini",
    messages=[{"role": "user", "content": "hello"}],
)
print(completion.choices[0].message.content)

with client.responses.stream(model="gpt-4o-mini", input="Tell me about queues.") as events:
    for event in events:
        if event.type == "response.output_text.delta":
            print(event.delta, end="", flush=True)
    print()

parsed = client.chat.completions.parse(
    model="gpt-4o-mini",
    messages=[{"role": "user", "content": "From Miller & Sons: please pay 12.50 for the repair."}],
    response_format=Invoice,
    extra_headers={"Idempotency-Key": "letter-2291", "X-Keyway-User": "u-42"},
)
print(parsed.choices[0].message.parsed)
