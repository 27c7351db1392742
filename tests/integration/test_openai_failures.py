"""What the SDK raises over the queue for each failure, by scripted answers in place of a worker's."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from contracts.openai_transport import keyway_http_client, sync_keyway_http_client
from tests.harness import World
from tests.responder import Responder, failure

ASKED: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
RAISED: dict[str, tuple[type[openai.APIStatusError], int]] = {
    "invalid_request": (openai.BadRequestError, 400),
    "provider_rejected": (openai.NotFoundError, 404),
    "no_keys": (openai.AuthenticationError, 401),
    "no_usable_key": (openai.AuthenticationError, 401),
    "keys_exhausted": (openai.RateLimitError, 429),
    "budget_exceeded": (openai.RateLimitError, 429),
    "provider_unavailable": (openai.InternalServerError, 503),
    "automation_disabled": (openai.PermissionDeniedError, 403),
    "internal": (openai.InternalServerError, 500),
    "of_a_later_version": (openai.InternalServerError, 500),
}


@pytest.fixture
async def bot(unserved: World) -> str:
    return await unserved.add_automation()


@pytest.fixture
async def worker(unserved: World, bot: str) -> AsyncIterator[Responder]:
    async with Responder(unserved, bot) as responder:
        yield responder


@pytest.fixture
async def client(unserved: World, bot: str) -> AsyncIterator[AsyncOpenAI]:
    http_client = keyway_http_client(unserved.url_of(bot))
    async with AsyncOpenAI(api_key="-", http_client=http_client, max_retries=1) as opened:
        yield opened


async def streamed(client: AsyncOpenAI) -> list[Any]:
    return [chunk async for chunk in await client.chat.completions.create(**ASKED, stream=True)]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("code", RAISED)
async def test_each_code_is_an_exception_of_the_sdks_and_is_not_tried_again(
    code: str, stream: bool, worker: Responder, client: AsyncOpenAI
) -> None:
    expected, status = RAISED[code]
    calling = asyncio.create_task(client.chat.completions.create(**ASKED, stream=stream))
    retry_at = (datetime.now(UTC) + timedelta(seconds=90)).isoformat()
    await (await worker.take()).result(**failure(code, retry_at=retry_at))
    with pytest.raises(expected, match="what happened") as raised:
        await calling
    assert raised.value.status_code == status
    assert raised.value.code == ("model_not_found" if code == "provider_rejected" else code)
    assert raised.value.response.headers["x-keyway-error-code"] == code
    assert 60 < int(raised.value.response.headers["retry-after"]) <= 90
    assert raised.value.request.headers["x-stainless-retry-count"] == "0"


async def test_a_deadline_that_passed_is_a_timeout_and_the_retry_is_a_new_request(
    worker: Responder, client: AsyncOpenAI
) -> None:
    calling = asyncio.create_task(client.chat.completions.create(**ASKED))
    first = await worker.take()
    await first.result(**failure("deadline_exceeded"))
    second = await worker.take()
    await second.result(**failure("deadline_exceeded"))
    with pytest.raises(openai.APITimeoutError):
        await calling
    assert second.request_id != first.request_id
    assert second.body["body"] == first.body["body"]


async def test_a_stream_that_fails_after_its_first_chunk_raises_what_a_providers_does(
    worker: Responder, client: AsyncOpenAI
) -> None:
    calling = asyncio.create_task(streamed(client))
    asked = await worker.take()
    await asked.chunk(0)
    await asked.result(**failure("provider_unavailable"))
    with pytest.raises(openai.APIError, match="what happened") as raised:
        await calling
    assert raised.value.code == "provider_unavailable"


async def test_a_stream_that_begins_anew_is_a_lost_connection_and_is_left(
    worker: Responder, client: AsyncOpenAI
) -> None:
    calling = asyncio.create_task(streamed(client))
    asked = await worker.take()
    await asked.chunk(0)
    await asked.chunk(0, restarted=True)
    with pytest.raises(openai.APIConnectionError) as raised:
        await calling
    assert "begins anew" in str(raised.value.__cause__)
    await asked.until_nobody_listens()


async def test_a_stream_that_began_anew_before_its_first_chunk_is_like_any_other(
    worker: Responder, client: AsyncOpenAI
) -> None:
    calling = asyncio.create_task(streamed(client))
    asked = await worker.take()
    await asked.chunk(0, restarted=True)
    await asked.chunk(1)
    await asked.result()
    assert len(await calling) == 2


async def test_streams_without_an_event_loop_fail_in_the_same_ways(
    unserved: World, bot: str, worker: Responder
) -> None:
    with OpenAI(api_key="-", http_client=sync_keyway_http_client(unserved.url_of(bot))) as client:

        def in_a_thread() -> list[Any]:
            return list(client.chat.completions.create(**ASKED, stream=True))

        calling = asyncio.create_task(asyncio.to_thread(in_a_thread))
        asked = await worker.take()
        await asked.chunk(0)
        await asked.result(**failure("internal"))
        with pytest.raises(openai.APIError, match="what happened"):
            await calling
        calling = asyncio.create_task(asyncio.to_thread(in_a_thread))
        asked = await worker.take()
        await asked.chunk(0)
        await asked.chunk(0, restarted=True)
        with pytest.raises(openai.APIConnectionError):
            await calling
        await asked.until_nobody_listens()


async def test_the_trace_of_the_http_request_goes_on_in_the_message(
    worker: Responder, client: AsyncOpenAI
) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    calling = asyncio.create_task(
        client.chat.completions.create(**ASKED, extra_headers={"traceparent": trace})
    )
    asked = await worker.take()
    await asked.result(response={"id": "chatcmpl-1"})
    assert (await calling).id == "chatcmpl-1"
    assert (asked.message.headers or {})["traceparent"] == trace


async def test_a_request_that_is_under_way_already_is_refused(worker: Responder, client: AsyncOpenAI) -> None:
    asked: dict[str, Any] = {**ASKED, "extra_headers": {"Idempotency-Key": "invoice-7"}}
    calling = asyncio.create_task(client.chat.completions.create(**asked))
    taken = await worker.take()
    with pytest.raises(openai.BadRequestError, match="invoice-7 is under way already"):
        await client.chat.completions.create(**asked)
    await taken.result(response={"id": "chatcmpl-1"})
    assert (await calling).id == "chatcmpl-1"
