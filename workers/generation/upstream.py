"""The call to the provider: the OpenAI SDK's client, one connection pool, bytes through."""

import asyncio
import time
from dataclasses import dataclass
from string import punctuation
from typing import Any
from urllib.parse import quote

import httpx2
import orjson
from openai import APIConnectionError, APIStatusError, AsyncOpenAI, DefaultAioHttpClient
from pydantic import SecretStr

from workers.generation.classification import (
    AUTH_FAILED,
    BAD_RESPONSE,
    CONNECTION_ERROR,
    TIMEOUT,
    Verdict,
    classify,
    rate_limits,
)
from workers.keys.reported import RateLimits

#: Time to open a connection, in seconds.
CONNECT_TIMEOUT_S = 10.0
#: Clients kept, one for each key in use; more are dropped.
MAX_CLIENTS = 4096
#: The provider's own correlation header (OpenAI, "Debugging requests").
REQUEST_ID_HEADER = "X-Client-Request-Id"
JSON_BODY = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Answer:
    """The provider's JSON, as bytes and decoded."""

    raw: bytes
    document: dict[str, Any]
    http_status: int
    latency_ms: int
    rate_limits: RateLimits | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt without an answer; `provider` is the provider's error body."""

    verdict: Verdict
    message: str
    latency_ms: int
    http_status: int | None = None
    error_code: str | None = None
    provider: dict[str, Any] | None = None
    rate_limits: RateLimits | None = None


class Upstream:
    """Calls providers for any number of keys over one connection pool."""

    def __init__(self, max_in_flight: int) -> None:
        """Open the pool, for so many calls at a time."""
        self._http = DefaultAioHttpClient(
            timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S),
            limits=httpx2.Limits(max_connections=max_in_flight, max_keepalive_connections=max_in_flight),
            follow_redirects=False,
        )
        self._root = AsyncOpenAI(api_key="-", max_retries=0, http_client=self._http)
        self._clients: dict[tuple[str, str], AsyncOpenAI] = {}

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def call(
        self,
        base_url: str,
        api_key: SecretStr,
        path: str,
        content: bytes,
        *,
        request_id: str,
        timeout_s: float,
    ) -> Answer | Failure:
        """Make one call; it never raises for what a provider does.

        Args:
            base_url: the provider's address, up to and with `/v1`.
            api_key: the key to call with.
            path: the endpoint below it.
            content: the JSON body.
            request_id: sent along, for the provider's logs.
            timeout_s: how long the whole call may take, in seconds.
        """
        client = self._client(base_url, api_key)
        started = time.perf_counter()
        try:
            async with asyncio.timeout(timeout_s):
                response = await client.post(
                    path,
                    cast_to=httpx2.Response,
                    content=content,
                    options={
                        "headers": {**JSON_BODY, REQUEST_ID_HEADER: quote(request_id, safe=punctuation)}
                    },
                )
                raw = response.content
        except APIStatusError as error:
            return _refused(error, api_key, _since(started))
        except TimeoutError:
            return Failure(TIMEOUT, f"no answer within {timeout_s:.0f} s", _since(started))
        except (APIConnectionError, httpx2.HTTPError) as error:
            cause = type(error.__cause__ or error).__name__
            return Failure(CONNECTION_ERROR, f"the connection failed: {cause}", _since(started))
        return _answered(raw, response, _since(started))

    def _client(self, base_url: str, api_key: SecretStr) -> AsyncOpenAI:
        identity = (base_url, api_key.get_secret_value())
        client = self._clients.get(identity)
        if client is None:
            if len(self._clients) >= MAX_CLIENTS:
                self._clients.clear()
            client = self._root.with_options(api_key=api_key.get_secret_value(), base_url=base_url)
            self._clients[identity] = client
        return client


def _since(started: float) -> int:
    return round((time.perf_counter() - started) * 1000)


def _answered(raw: bytes, response: httpx2.Response, latency_ms: int) -> Answer | Failure:
    status = response.status_code
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict) or status >= 300:
        return Failure(BAD_RESPONSE, "the provider's answer is not a JSON object", latency_ms, status)
    return Answer(raw, document, status, latency_ms, rate_limits(response.headers))


def _refused(error: APIStatusError, api_key: SecretStr, latency_ms: int) -> Failure:
    """Judge an error answer; the key is taken out of it, should the provider repeat it.

    Of a refused key nothing is passed on: providers repeat a part of it.
    """
    response = error.response
    try:
        body = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        body = None
    body = _scrubbed(body if isinstance(body, dict) else {"message": response.text[:1000]}, api_key)
    details = body.get("error", body)
    details = details if isinstance(details, dict) else {"message": str(details)}
    code = str(details.get("code") or details.get("type") or "")
    kind = str(details.get("type") or "")
    message = str(details.get("message") or f"HTTP {response.status_code}")
    headers = {name.lower(): value for name, value in response.headers.items()}
    verdict = classify(
        response.status_code, kind if kind == "insufficient_quota" else code, message, headers, time.time()
    )
    if verdict is AUTH_FAILED:
        return Failure(
            verdict, "the provider refuses the key", latency_ms, response.status_code, code or None
        )
    said = rate_limits(headers)
    return Failure(verdict, message, latency_ms, response.status_code, code or None, body, said)


def _scrubbed(value: Any, api_key: SecretStr) -> Any:
    """The value, with the key taken out of every text."""
    if isinstance(value, str):
        return value.replace(api_key.get_secret_value(), "[key]")
    if isinstance(value, dict):
        return {_scrubbed(name, api_key): _scrubbed(item, api_key) for name, item in value.items()}
    if isinstance(value, list):
        return [_scrubbed(item, api_key) for item in value]
    return value
