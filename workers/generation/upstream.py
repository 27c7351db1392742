"""The call to the provider: bytes through, over pooled connections.

A plain call takes its headers and its address from the OpenAI SDK's client and sends them with `aiohttp`, the
SDK's own transport, since what lies between them costs three times the call (docs/decisions/0027). A streamed
one goes through the whole SDK.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from string import punctuation
from typing import Any, Self
from urllib.parse import quote
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx2
import orjson
from openai import APIError, APIStatusError, AsyncOpenAI, AsyncStream, DefaultAioHttpClient
from pydantic import SecretStr

from workers.generation.assembly import Assembly, error_in
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
#: All that is said of a refused key: providers repeat a part of it.
REFUSED_MESSAGE = "the provider refuses the key"
EVENT_STREAM = "text/event-stream"
#: The first HTTP status that is not a success; redirects are not followed.
MULTIPLE_CHOICES = 300
#: Characters that are kept of an error that is not JSON.
LONGEST_TEXT = 1000
#: What a stream may fail of: the provider's word, the connection, its time, and an event that is not JSON.
FAILURES = (APIError, httpx2.HTTPError, TimeoutError, json.JSONDecodeError, UnicodeDecodeError)


@dataclass(frozen=True, slots=True)
class Answer:
    """The provider's JSON, as bytes and decoded; of a stream what is known of it.

    `output_tokens` is an estimate for what was streamed, should the provider not count it.
    """

    raw: bytes
    document: dict[str, Any]
    http_status: int
    latency_ms: int
    rate_limits: RateLimits | None = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt without an answer; `provider` is the provider's error body.

    `output_tokens` is an estimate for what was streamed before it failed; None where nothing was.
    """

    verdict: Verdict
    message: str
    latency_ms: int
    http_status: int | None = None
    error_code: str | None = None
    provider: dict[str, Any] | None = None
    rate_limits: RateLimits | None = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Client:
    """One key's client of the SDK, and what it sends with each call."""

    sdk: AsyncOpenAI
    headers: Mapping[str, str]
    base_url: str
    #: The proxy that the environment names for the address, if any.
    proxy: str | None

    @classmethod
    def of(cls, sdk: AsyncOpenAI) -> Self:
        """Read what the SDK's client would send."""
        named = {**sdk.default_headers, **sdk.auth_headers}
        headers = {name: value for name, value in named.items() if isinstance(value, str)}
        base_url = sdk.base_url
        proxy = None if proxy_bypass(base_url.host) else getproxies().get(base_url.scheme)
        return cls(sdk, headers, str(base_url).rstrip("/"), proxy)


class Upstream:
    """Calls providers for any number of keys over one connection pool."""

    def __init__(self, max_in_flight: int) -> None:
        """Open the pools, for so many calls at a time."""
        self._http = DefaultAioHttpClient(
            timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S),
            limits=httpx2.Limits(max_connections=max_in_flight, max_keepalive_connections=max_in_flight),
            follow_redirects=False,
        )
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=max_in_flight, ssl=httpx2.create_ssl_context()),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
        )
        self._root = AsyncOpenAI(api_key="-", max_retries=0, http_client=self._http)
        self._clients: dict[tuple[str, str], Client] = {}

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()
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
        headers = {**client.headers, **_headers(request_id)}
        started = time.perf_counter()
        try:
            async with asyncio.timeout(timeout_s):
                async with self._session.post(
                    client.base_url + path,
                    data=content,
                    headers=headers,
                    allow_redirects=False,
                    proxy=client.proxy,
                ) as response:
                    raw = await response.read()
        except aiohttp.ClientError as error:
            return _unconnected(error, _since(started))
        except TimeoutError:
            return _too_late(timeout_s, _since(started))
        status = response.status
        if status >= MULTIPLE_CHOICES:
            return _refused(status, response.headers, raw, api_key, _since(started))
        return _answered(raw, status, response.headers, _since(started))

    async def stream(
        self,
        base_url: str,
        api_key: SecretStr,
        path: str,
        content: bytes,
        *,
        request_id: str,
        timeout_s: float,
        assembly: Assembly,
        pass_on: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> Answer | Failure:
        """Make one call whose answer is streamed; it never raises for what a provider does.

        Args:
            base_url: the provider's address, up to and with `/v1`.
            api_key: the key to call with.
            path: the endpoint below it.
            content: the JSON body.
            request_id: sent along, for the provider's logs.
            timeout_s: how long the whole call may take, in seconds.
            assembly: is given all that comes.
            pass_on: is given what the automation is to see of it, in order; what it raises ends the call.
        """
        client = self._client(base_url, api_key).sdk
        started = time.perf_counter()
        try:
            async with asyncio.timeout(timeout_s):
                events = await client.post(
                    path,
                    cast_to=object,
                    content=content,
                    options={"headers": _headers(request_id)},
                    stream=True,
                    stream_cls=AsyncStream[object],
                )
                response = events.response
                async with events:
                    if EVENT_STREAM not in response.headers.get("content-type", ""):
                        raw = await response.aread()
                        return _answered(raw, response.status_code, response.headers, _since(started))
                    failure = await _follow(events, api_key, assembly, pass_on)
        except FAILURES as error:
            failure = _failed(error, api_key, 0, timeout_s)
        latency_ms = _since(started)
        if failure is None and not assembly.is_whole:
            failure = Failure(BAD_RESPONSE, "the provider's stream ended before its answer did", 0)
        if failure is not None:
            streamed = assembly.output_tokens
            status = failure.http_status if streamed is None else 200
            return replace(failure, latency_ms=latency_ms, http_status=status, output_tokens=streamed)
        return Answer(
            assembly.raw,
            assembly.document,
            response.status_code,
            latency_ms,
            rate_limits(response.headers),
            assembly.output_tokens,
        )

    def _client(self, base_url: str, api_key: SecretStr) -> Client:
        identity = (base_url, api_key.get_secret_value())
        client = self._clients.get(identity)
        if client is None:
            if len(self._clients) >= MAX_CLIENTS:
                self._clients.clear()
            sdk = self._root.with_options(api_key=api_key.get_secret_value(), base_url=base_url)
            client = self._clients[identity] = Client.of(sdk)
        return client


def _headers(request_id: str) -> dict[str, str]:
    return {**JSON_BODY, REQUEST_ID_HEADER: quote(request_id, safe=punctuation)}


async def _follow(
    events: AsyncStream[object],
    api_key: SecretStr,
    assembly: Assembly,
    pass_on: Callable[[dict[str, Any]], Awaitable[None]],
) -> Failure | None:
    """Pass on what comes, until the end; the provider may say in between that it failed."""
    async for data in events:
        if not isinstance(data, dict):
            return Failure(BAD_RESPONSE, "an event of the provider's stream is not a JSON object", 0)
        if (error := error_in(data)) is not None:
            return _broken_off(error, api_key)
        chunk = assembly.take(data)
        if chunk is not None:
            await pass_on(chunk)
    return None


def _failed(error: Exception, api_key: SecretStr, latency_ms: int, timeout_s: float) -> Failure:
    """What an exception of the SDK or of the connection means."""
    match error:
        case APIStatusError(response=response):
            return _refused(response.status_code, response.headers, response.content, api_key, latency_ms)
        case TimeoutError():
            return _too_late(timeout_s, latency_ms)
        case APIError(body=dict() as body):
            return replace(_broken_off(body, api_key), latency_ms=latency_ms)
        case APIError() | httpx2.HTTPError():
            return _unconnected(error.__cause__ or error, latency_ms)
        case _:
            return Failure(BAD_RESPONSE, "an event of the provider's stream is not JSON", latency_ms)


def _unconnected(error: BaseException, latency_ms: int) -> Failure:
    return Failure(CONNECTION_ERROR, f"the connection failed: {type(error).__name__}", latency_ms)


def _too_late(timeout_s: float, latency_ms: int) -> Failure:
    return Failure(TIMEOUT, f"no answer within {timeout_s:.0f} s", latency_ms)


def _broken_off(error: dict[str, Any], api_key: SecretStr) -> Failure:
    """Judge an error that came in a stream, in place of what should have followed."""
    error = _scrubbed(error, api_key)
    code = str(error.get("code") or error.get("type") or "")
    message = str(error.get("message") or "the provider broke its stream off")
    verdict = classify(500, code, message, {}, time.time())
    if verdict is AUTH_FAILED:
        return Failure(verdict, REFUSED_MESSAGE, 0, 200, code)
    return Failure(verdict, message, 0, 200, code or None, {"error": error})


def _since(started: float) -> int:
    return round((time.perf_counter() - started) * 1000)


def _answered(raw: bytes, status: int, headers: Mapping[str, str], latency_ms: int) -> Answer | Failure:
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict) or status >= MULTIPLE_CHOICES:
        return Failure(BAD_RESPONSE, "the provider's answer is not a JSON object", latency_ms, status)
    return Answer(raw, document, status, latency_ms, rate_limits(headers))


def _refused(
    status: int, headers: Mapping[str, str], content: bytes, api_key: SecretStr, latency_ms: int
) -> Failure:
    """Judge an answer that is no success; the key is taken out of it, should the provider repeat it."""
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        body = None
    text = {"message": content.decode(errors="replace")[:LONGEST_TEXT]}
    body = _scrubbed(body if isinstance(body, dict) else text, api_key)
    details = body.get("error", body)
    details = details if isinstance(details, dict) else {"message": str(details)}
    code = str(details.get("code") or details.get("type") or "")
    kind = str(details.get("type") or "")
    message = str(details.get("message") or f"HTTP {status}")
    verdict = classify(status, kind if kind == "insufficient_quota" else code, message, headers, time.time())
    if verdict is AUTH_FAILED:
        return Failure(verdict, REFUSED_MESSAGE, latency_ms, status, code or None)
    return Failure(verdict, message, latency_ms, status, code or None, body, rate_limits(headers))


def _scrubbed(value: Any, api_key: SecretStr) -> Any:
    """The value, with the key taken out of every text."""
    if isinstance(value, str):
        return value.replace(api_key.get_secret_value(), "[key]")
    if isinstance(value, dict):
        return {_scrubbed(name, api_key): _scrubbed(item, api_key) for name, item in value.items()}
    if isinstance(value, list):
        return [_scrubbed(item, api_key) for item in value]
    return value
