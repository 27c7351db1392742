"""The same load over HTTP, for gateways and for the provider itself.

    python -m tests.bench.http_load URL --requests 500 --in-flight 64 [--header 'name: value' …]

It prints what `load` prints.
"""

import argparse
import sys

import aiohttp
import orjson
import uvloop

from tests.bench.load import ANSWER, ANSWER_TIMEOUT_S, REQUEST
from tests.bench.pacing import closed_loop, open_loop

BODY = orjson.dumps(REQUEST)


async def run(options: argparse.Namespace) -> bytes:
    own = dict(header.split(": ", 1) for header in options.header)
    headers = {"content-type": "application/json", "authorization": "Bearer sk-bench", **own}
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as session:

        async def ask() -> None:
            async with session.post(options.url, data=BODY) as response:
                body = await response.read()
            if response.status != 200 or ANSWER not in body.replace(b" ", b""):
                raise RuntimeError(f"not an answer: {response.status} {body[:300]!r}")

        if options.rate:
            load = await open_loop(ask, requests=options.requests, rate=options.rate)
        else:
            load = await closed_loop(ask, requests=options.requests, in_flight=options.in_flight)
    return orjson.dumps(load)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.http_load")
    parser.add_argument("url")
    parser.add_argument("--header", action="append", default=[], help="`name: value`")
    parser.add_argument("--requests", type=int, required=True)
    pace = parser.add_mutually_exclusive_group(required=True)
    pace.add_argument("--in-flight", type=int, help="a closed loop")
    pace.add_argument("--rate", type=float, help="an open loop, requests a second")
    sys.stdout.buffer.write(uvloop.run(run(parser.parse_args())) + b"\n")


if __name__ == "__main__":
    main()
