"""When a child process is ready: it answers over HTTP, or its log says so."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import aiohttp

from infra.errors import StackError
from infra.local.process import Child

#: Seconds between two looks.
POLL_S = 0.1
#: Seconds that one answer over HTTP may take.
ANSWER_S = 5.0

Check: TypeAlias = Callable[[Child], Awaitable[bool]]


async def wait_until_ready(child: Child, check: Check, timeout_s: float) -> None:
    """Wait until the check says yes.

    Raises:
        StackError: the process ended first, or the time is over; the last line of its log is in it.
    """
    try:
        async with asyncio.timeout(timeout_s):
            while not await check(child):
                if child.pid is None:
                    reason = describe_exit(await child.wait())
                    raise StackError(f"{child.name} {reason}: {child.last_line()} (see {child.log})")
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise StackError(
            f"{child.name} is not ready after {timeout_s:g} s: {child.last_line()} (see {child.log})"
        ) from None


def logs_event(event: str) -> Check:
    """Ready when the process has logged this event, as a line of JSON."""

    async def check(child: Child) -> bool:
        return any(_event_of(line) == event for line in child.output().splitlines())

    return check


def answers(url: str, user: str = "", password: str = "") -> Check:
    """Ready when a GET is answered with 200."""
    headers = {"Authorization": aiohttp.encode_basic_auth(user, password)} if user else {}

    async def check(_: Child) -> bool:
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as http,
                http.get(url, headers=headers) as response,
            ):
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    return check


def describe_exit(status: int) -> str:
    """An exit status in words."""
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"


def _event_of(line: str) -> object:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry.get("event") if isinstance(entry, dict) else None
