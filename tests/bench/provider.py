"""The provider of the benchmarks: one fixed chat completion for every call, at once or after a while.

    python -m tests.bench.provider PORT_FILE [--latency-s 10]

`GET /calls` tells how many calls have no answer yet, and how many have one: `5 1000`.

It does next to nothing for a call, so that it takes no machine from what is measured. Its answers bear the
headers by which OpenAI tells of limits, since reading them is part of the work.
"""

import argparse
import asyncio
from pathlib import Path

import orjson
import uvloop
from aiohttp import web

#: More than any benchmark has open.
BACKLOG = 20_000
ANSWER = orjson.dumps(
    {
        "id": "chatcmpl-bench0000000000000000000000",
        "object": "chat.completion",
        "created": 1_764_000_000,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "A message broker lets programs hand work to each other without waiting.",
                    "refusal": None,
                    "annotations": [],
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 31,
            "completion_tokens": 14,
            "total_tokens": 45,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        "service_tier": "default",
        "system_fingerprint": "fp_bench",
    }
)
HEADERS = {
    "content-type": "application/json",
    "x-request-id": "req_bench",
    "openai-processing-ms": "1",
    "x-ratelimit-limit-requests": "100000000",
    "x-ratelimit-limit-tokens": "100000000000",
    "x-ratelimit-remaining-requests": "100000000",
    "x-ratelimit-remaining-tokens": "100000000000",
    "x-ratelimit-reset-requests": "1ms",
    "x-ratelimit-reset-tokens": "1ms",
}


async def run(port_file: Path, latency_s: float) -> None:
    in_flight = answered = 0

    async def answer(request: web.BaseRequest) -> web.Response:
        nonlocal in_flight, answered
        if request.path == "/calls":
            return web.Response(text=f"{in_flight} {answered}")
        await request.read()
        if latency_s:
            in_flight += 1
            await asyncio.sleep(latency_s)
            in_flight -= 1
        answered += 1
        return web.Response(body=ANSWER, headers=HEADERS)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=BACKLOG).start()
    port_file.write_text(f"{runner.addresses[0][1]}\n")  # noqa: ASYNC240  # before it serves
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.provider")
    parser.add_argument("port_file", type=Path, help="where its port is written to")
    parser.add_argument("--latency-s", type=float, default=0)
    options = parser.parse_args()
    uvloop.run(run(options.port_file, options.latency_s))


if __name__ == "__main__":
    main()
