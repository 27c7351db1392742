"""Without our client: anything that speaks AMQP and JSON can take part."""

import asyncio
import base64
import json
from typing import Any

from contracts.messages import GenerationResult
from tests.harness import World, eventually

#: The sample body of the wire's page, as a person pastes it into RabbitMQ's management page.
SAMPLE = """{
  "path": "/chat/completions",
  "body": {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]},
  "user_id": "u-42",
  "deadline": "2126-11-24T10:00:00Z",
  "metadata": {"campaign": "spring"}
}"""


async def test_the_sample_body_pasted_into_the_management_page_is_answered(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    replies = f"replies.{bot}"
    await shared.admin.call("PUT", f"queues/{{vhost}}/{replies}", {"durable": True})
    body = json.loads(SAMPLE)
    del body["deadline"]
    published = await shared.admin.call(
        "POST",
        "exchanges/{vhost}/requests/publish",
        {
            "routing_key": bot,
            "payload": json.dumps(body),
            "payload_encoding": "string",
            "properties": {"reply_to": replies, "correlation_id": "c-1"},
        },
    )
    assert published == {"routed": True}
    answers: list[dict[str, Any]] = []

    async def answered() -> bool:
        wanted = {"count": 1, "ackmode": "ack_requeue_false", "encoding": "base64"}
        answers.extend(await shared.admin.call("POST", f"queues/{{vhost}}/{replies}/get", wanted))
        return bool(answers)

    await eventually(answered, "an answer in the reply queue")
    assert answers[0]["properties"]["correlation_id"] == "c-1"
    assert answers[0]["properties"]["type"] == "generation.result.v1"
    result = GenerationResult.model_validate_json(base64.b64decode(answers[0]["payload"]))
    assert result.status == "succeeded"
    assert result.automation_id == bot
    assert (await shared.accounted(bot, 1))[0]["user_id"] == "u-42"


async def test_a_request_that_nobody_waits_for_is_done_and_accounted_all_the_same(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    body = {"path": "/embeddings", "body": {"model": "text-embedding-3-small", "input": "hello"}}
    await shared.admin.call(
        "POST",
        "exchanges/{vhost}/requests/publish",
        {"routing_key": bot, "payload": json.dumps(body), "payload_encoding": "string", "properties": {}},
    )
    (row,) = await shared.accounted(bot, 1)
    assert row["outcome"] == "ok"
    assert row["completion_tokens"] == 0
    await asyncio.sleep(0)
