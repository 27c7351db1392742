"""What `keyway up` shows: an automation with three keys, and one real generation through the queue."""

import os
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

from pydantic import SecretStr
from tenacity import AsyncRetrying, RetryError, TryAgain, stop_after_delay, wait_fixed

from contracts import Keyway
from infra.alerts import day_of
from infra.errors import ConflictError, PlatformError
from infra.mongo import Document
from workers.cli.generate import answer_text, summary
from workers.cli.session import Platform, err, out, platform
from workers.cli.usage import Dimension, print_usage
from workers.keys.facts import KeyFilter, find_keys
from workers.keys.import_file import NewKey
from workers.keys.key import Limits
from workers.keys.registry import DEFAULT_BASE_URL

if TYPE_CHECKING:
    from infra.local.stack import StackInfo

AUTOMATION = "demo"
PROMPT = "Say hello to a new user of Keyway."
MODEL = "gpt-4o-mini"
ALIASES = ("Primary", "Secondary", "Backup")
#: Where real keys of the demo come from; the first one decides that it runs on OpenAI.
OPENAI_VARIABLES = dict(zip(ALIASES, ("OPENAI_API_KEY", "OPENAI_API_KEY_2", "OPENAI_API_KEY_3"), strict=True))
#: Limits of the demo's keys: modest, so that `keyway keys list` shows something.
LIMITS = Limits(requests_per_minute=60, tokens_per_minute=60_000, tokens_per_day=1_000_000)
#: How long the books may take to have the demo's call, in seconds.
BOOKED_S = 10.0


async def run_demo(info: "StackInfo", *, upstream: str | None) -> None:
    """Add the demo automation where it is missing, ask for one generation, and show what came of it.

    Args:
        info: the stack that is up.
        upstream: a provider's base URL, where `keyway up` was given one.

    Raises:
        PlatformError: RabbitMQ or MongoDB refused, or there is no key to call the provider with.
        GenerationError: the generation failed.
    """
    os.environ.update(info.environment)
    base_url, api_keys = _provider(info, upstream)
    async with platform() as p:
        await _ensure_automation(p, base_url, api_keys)
        before = await _booked_calls(p)
        url = p.settings.amqp_url.get_secret_value()
        async with Keyway(url, automation_id=AUTOMATION, heartbeat_s=0) as keyway:
            messages = [{"role": "user", "content": PROMPT}]
            result = await keyway.generate("/chat/completions", model=MODEL, messages=messages, user="you")
        out.print(f"\n{PROMPT}", style="dim", highlight=False, markup=False)
        out.print(answer_text(result), style="bold", highlight=False, markup=False)
        out.print(f"{summary(result)}\n", highlight=False, soft_wrap=True)
        await _wait_until_booked(p, before + len(result.attempts))
        today = day_of(await p.mongo.server_time())
        print_usage(today, Dimension.KEY, await _totals(p, today))
    page = info.amqp_admin_url.get_secret_value().rpartition("@")[2]
    for line in (
        f"\nRabbitMQ's management page: http://{page} (user and password: keyway status --json)",
        f'Try: keyway generate {AUTOMATION} "your prompt" · keyway keys list · keyway usage',
    ):
        err.print(line, highlight=False, soft_wrap=True)


def _provider(info: "StackInfo", upstream: str | None) -> tuple[str, dict[str, SecretStr]]:
    """Where the demo's keys call, and the keys: real ones if there are any, else ones for the simulator."""
    real = {
        alias: SecretStr(os.environ[name]) for alias, name in OPENAI_VARIABLES.items() if os.environ.get(name)
    }
    if real:
        return upstream or DEFAULT_BASE_URL, real
    if upstream is not None or info.simulator_url is None:
        raise PlatformError("set OPENAI_API_KEY (and _2, _3) for the provider that --upstream names")
    made_up = {alias: SecretStr(f"sk-simulated-{secrets.token_hex(16)}") for alias in ALIASES}
    return f"{info.simulator_url}/v1", made_up


async def _ensure_automation(p: Platform, base_url: str, api_keys: dict[str, SecretStr]) -> None:
    """The automation and its keys, where they are missing; a key of an earlier run may point elsewhere."""
    async with p.automation_changes() as automations:
        try:
            await automations.add(AUTOMATION, {})
        except ConflictError:
            err.print(f"The automation {AUTOMATION} is there from an earlier run.", style="dim")
    keys = p.key_changes(with_vault=True)
    present = {view.key.alias: view for view in await find_keys(p.mongo, KeyFilter(AUTOMATION), most=None)}
    for line, (alias, api_key) in enumerate(api_keys.items(), start=1):
        if alias in present and present[alias].key.base_url == base_url.rstrip("/"):
            continue
        if alias in present:
            await keys.remove(present[alias])
        await keys.add(NewKey(line, AUTOMATION, alias, api_key, LIMITS, base_url, 0))


async def _wait_until_booked(p: Platform, calls: int) -> None:
    with suppress(RetryError):  # then the table shows what is booked so far
        async for attempt in AsyncRetrying(stop=stop_after_delay(BOOKED_S), wait=wait_fixed(0.1)):
            with attempt:
                if await _booked_calls(p) < calls:
                    raise TryAgain


async def _booked_calls(p: Platform) -> int:
    return await p.mongo.usage.count_documents({"automation_id": AUTOMATION})


async def _totals(p: Platform, day: str) -> list[Document]:
    query = {"dimension": "key", "day": day, "automation_id": AUTOMATION}
    return [total async for total in p.mongo.usage_daily.find(query).sort("label", 1)]
