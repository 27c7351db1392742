"""Asks a provider whether it takes a key, with `GET /models`, which costs nothing."""

from dataclasses import dataclass

import httpx2
from openai import APIConnectionError, APIStatusError, AsyncOpenAI
from pydantic import SecretStr

PROBE_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Whether the provider takes the key, and in one line why not."""

    ok: bool
    reason: str


async def probe(base_url: str, api_key: SecretStr) -> ProbeResult:
    """Ask once; it never raises for what a provider does.

    Args:
        base_url: the provider's address, up to and with `/v1`.
        api_key: the key to ask with.
    """
    async with AsyncOpenAI(
        api_key=api_key.get_secret_value(), base_url=base_url, max_retries=0, timeout=PROBE_TIMEOUT_S
    ) as client:
        try:
            await client.get("/models", cast_to=httpx2.Response)
        except APIStatusError as error:
            code = str(error.code or error.type or "no code")
            return ProbeResult(ok=False, reason=f"the provider answers {error.status_code} {code}")
        except APIConnectionError as error:
            return ProbeResult(ok=False, reason=f"no connection: {type(error.__cause__ or error).__name__}")
    return ProbeResult(ok=True, reason="the provider takes the key")
