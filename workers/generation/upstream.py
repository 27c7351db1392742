"""The call to the provider: bytes through, over pooled connections."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from string import punctuation
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
import structlog
from pydantic import SecretStr
from pydantic_core import from_json

from infra.errors import UnusableKeyError
from workers.generation.answers import Answer, Failure
from workers.generation.assembly import Assembly, error_in
from workers.generation.call_time import CallTime
from workers.generation.classification import (
    AUTH_FAILED,
    BAD_RESPONSE,
    CANCELLED,
    CONNECTION_ERROR,
    READER_TOO_SLOW,
    TIMEOUT,
    TOO_LARGE,
    rate_limits,
)
from workers.generation.event_stream import EventStream
from workers.generation.json_bounds import TOO_INTRICATE, is_too_intricate
from workers.generation.provider_failures import broken_off, refused
from workers.keys.provider_http import (
    MOST_ANSWER_BYTES,
    AnswerTooLargeError,
    Destination,
    destination,
    open_session,
    read_answer,
    read_error,
)

log = structlog.get_logger()

#: Keys whose destinations are kept; more are dropped.
MAX_DESTINATIONS = 4096
#: The provider's own correlation header (OpenAI, "Debugging requests").
REQUEST_ID_HEADER = "X-Client-Request-Id"
JSON_BODY = {"Content-Type": "application/json"}
EVENT_STREAM = "text/event-stream"
#: Successes are the statuses from here up to `MULTIPLE_CHOICES`; redirects are not followed.
OK = 200
MULTIPLE_CHOICES = 300
#: What ends a stream of chat completions.
DONE = b"[DONE]"
#: An answer with fewer brackets is never nested too deeply for who reads it.
FEW_BRACKETS = 100

PassOn = Callable[[dict[str, Any]], Awaitable[None]]
Read = Callable[[aiohttp.ClientResponse, CallTime], Awaitable[Answer | Failure]]


class NotPassedOnError(Exception):
    """What is given the chunks of a stream raised; the cause says what."""


class Upstream:
    """Calls providers for any number of keys over one connection pool."""

    def __init__(self, max_in_flight: int, *, proxy_from_environment: bool = False) -> None:
        """Open the pool.

        Args:
            max_in_flight: calls at a time.
            proxy_from_environment: whether `HTTPS_PROXY` and its like count.
        """
        self._session = open_session(max_in_flight)
        self._proxy_from_environment = proxy_from_environment
        self._destinations: dict[tuple[str, str], Destination] = {}

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

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
        """Make one call; it never raises for what a provider does, or for how a key is stored.

        Args:
            base_url: the provider's address, up to and with `/v1`.
            api_key: the key to call with.
            path: the endpoint below it.
            content: the JSON body.
            request_id: sent along, for the provider's logs.
            timeout_s: how long the whole call may take, in seconds.
        """

        async def read(response: aiohttp.ClientResponse, time: CallTime) -> Answer | Failure:
            return await _read(response, api_key, time)

        return await self._ask(
            base_url, api_key, path, content, request_id=request_id, timeout_s=timeout_s, read=read
        )

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
        pass_on: PassOn,
    ) -> Answer | Failure:
        """Make one call whose answer is streamed; it never raises for what a provider does.

        Only waiting for the provider counts as the call's time. Who reads the stream has a bound of its own
        (`call_time.py`); where it is reached, the failure is `CANCELLED`, and nobody's key is blamed.

        Args:
            base_url: the provider's address, up to and with `/v1`.
            api_key: the key to call with.
            path: the endpoint below it.
            content: the JSON body.
            request_id: sent along, for the provider's logs.
            timeout_s: how long the provider may take, in seconds.
            assembly: is given all that comes.
            pass_on: is given what the automation is to see of it, in order; what it raises ends the call.
        """

        async def read(response: aiohttp.ClientResponse, time: CallTime) -> Answer | Failure:
            is_stream = EVENT_STREAM in response.headers.get("content-type", "")
            if not OK <= response.status < MULTIPLE_CHOICES or not is_stream:
                return await _read(response, api_key, time)
            if (failure := await _follow(response, api_key, assembly, pass_on, time)) is not None:
                return failure
            if not assembly.is_whole:
                verdict = READER_TOO_SLOW if time.is_reader_slow else BAD_RESPONSE
                return Failure(verdict, "the provider's stream ended before its answer did", time.latency_ms)
            return Answer(
                assembly.raw,
                assembly.document,
                response.status,
                time.latency_ms,
                rate_limits(response.headers),
                assembly.output_tokens,
            )

        answer = await self._ask(
            base_url, api_key, path, content, request_id=request_id, timeout_s=timeout_s, read=read
        )
        streamed = assembly.output_tokens
        if isinstance(answer, Failure) and streamed is not None:
            return replace(answer, http_status=OK, output_tokens=streamed)
        return answer

    async def _ask(
        self,
        base_url: str,
        api_key: SecretStr,
        path: str,
        content: bytes,
        *,
        request_id: str,
        timeout_s: float,
        read: Read,
    ) -> Answer | Failure:
        """Make a call, and have its answer read; whatever goes wrong with it is a failure of this call."""
        time = CallTime(timeout_s)
        try:
            where = self._destination(base_url, api_key)
            async with (
                time.limit,
                self._session.post(
                    where.base_url + path,
                    data=content,
                    headers={**where.headers, **_headers(request_id)},
                    allow_redirects=False,
                    proxy=where.proxy,
                ) as response,
            ):
                return await read(response, time)
        except NotPassedOnError as error:
            raise (error.__cause__ or error) from None
        except AnswerTooLargeError:
            message = f"the provider's answer is larger than {MOST_ANSWER_BYTES} bytes"
            return Failure(TOO_LARGE, message, time.latency_ms, OK)
        except UnusableKeyError as error:
            return Failure(AUTH_FAILED, str(error), time.latency_ms, error_code=error.code)
        except aiohttp.ClientError as error:
            if time.is_reader_slow:
                message = "the provider closed its stream while its reader was slow"
                return Failure(READER_TOO_SLOW, message, time.latency_ms)
            message = f"the connection failed: {type(error).__name__}"
            return Failure(CONNECTION_ERROR, message, time.latency_ms)
        except TimeoutError:
            if time.is_readers_fault:
                return Failure(CANCELLED, "the stream was not read in time", time.latency_ms)
            return Failure(TIMEOUT, f"no answer within {timeout_s:.0f} s", time.latency_ms)
        except Exception as error:
            log.exception("provider_call_failed", request_id=request_id)
            message = f"the call failed inside: {type(error).__name__}"
            return Failure(BAD_RESPONSE, message, time.latency_ms)

    def _destination(self, base_url: str, api_key: SecretStr) -> Destination:
        identity = (base_url, api_key.get_secret_value())
        found = self._destinations.get(identity)
        if found is None:
            if len(self._destinations) >= MAX_DESTINATIONS:
                self._destinations.clear()
            found = destination(base_url, api_key, proxy_from_environment=self._proxy_from_environment)
            self._destinations[identity] = found
        return found


def _headers(request_id: str) -> dict[str, str]:
    return {**JSON_BODY, REQUEST_ID_HEADER: quote(request_id, safe=punctuation)}


async def _follow(
    response: aiohttp.ClientResponse,
    api_key: SecretStr,
    assembly: Assembly,
    pass_on: PassOn,
    time: CallTime,
) -> Failure | None:
    """Pass on what comes, until the end; the provider may say in between that it failed."""
    events, size = EventStream(), 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > MOST_ANSWER_BYTES:
            raise AnswerTooLargeError
        for raw in events.feed(part):
            if raw.startswith(DONE):
                return None
            if is_too_intricate(raw):
                message = f"an event of the provider's stream {TOO_INTRICATE}"
                return Failure(TOO_LARGE, message, time.latency_ms)
            try:
                data = from_json(raw, allow_inf_nan=False)
            except ValueError:
                return Failure(BAD_RESPONSE, "an event of the provider's stream is not JSON", time.latency_ms)
            if not isinstance(data, dict):
                message = "an event of the provider's stream is not a JSON object"
                return Failure(BAD_RESPONSE, message, time.latency_ms)
            if (error := error_in(data)) is not None:
                return broken_off(error, api_key, time.latency_ms)
            if (chunk := assembly.take(data)) is not None:
                with time.reader():
                    await _pass_on(pass_on, chunk)
    return None


async def _pass_on(pass_on: PassOn, chunk: dict[str, Any]) -> None:
    try:
        await pass_on(chunk)
    except Exception as error:
        raise NotPassedOnError from error


async def _read(response: aiohttp.ClientResponse, api_key: SecretStr, time: CallTime) -> Answer | Failure:
    """Read a whole answer, and say what it means."""
    status, headers = response.status, response.headers
    if status >= MULTIPLE_CHOICES:
        return refused(status, headers, await read_error(response), api_key, time.latency_ms)
    raw = await read_answer(response)
    if is_too_intricate(raw):
        return Failure(TOO_LARGE, f"the provider's answer {TOO_INTRICATE}", time.latency_ms, status)
    if status < OK or (document := _document(raw)) is None:
        return Failure(BAD_RESPONSE, "the provider's answer is not a JSON object", time.latency_ms, status)
    return Answer(raw, document, status, time.latency_ms, rate_limits(headers))


def _document(raw: bytes) -> dict[str, Any] | None:
    """The JSON object of an answer, if it is one that every reader of the contract can read."""
    try:
        document = orjson.loads(raw)
        if raw.count(b"{") + raw.count(b"[") > FEW_BRACKETS:
            from_json(raw)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
