"""The provider's side of one call, from its first byte to its line in the journal."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import sha256
from random import Random
from typing import TypeAlias

import orjson
from aiohttp import web
from pydantic import SecretStr

from infra.local.simulator.answers import (
    Stamp,
    Tokens,
    answer,
    charge,
    compose,
    models,
    natural_tokens,
)
from infra.local.simulator.journal import Draft, Journal
from infra.local.simulator.limits import Refused, Window, admit, limit_headers
from infra.local.simulator.prompts import ENDPOINTS, Prompt, read_prompt
from infra.local.simulator.rejections import (
    DEACTIVATED,
    FORBIDDEN,
    INVALID_KEY,
    MALFORMED,
    NO_KEY,
    OVERLOADED,
    QUOTA_EXHAUSTED,
    SERVER_ERROR,
    TOO_LARGE,
    Rejection,
    model_not_found,
    over_limit,
    rate_limited,
    unknown_path,
)
from infra.local.simulator.script import (
    KeyScript,
    Script,
    draw_completion_tokens,
    draw_fault,
    draw_latency_s,
)
from infra.local.simulator.streams import frames

Clock: TypeAlias = Callable[[], float]
Sleep: TypeAlias = Callable[[float], Awaitable[None]]

BROKEN_JSON = b'{"id": "chatcmpl-'
JSON_CONTENT = {"content-type": "application/json"}
STREAM_CONTENT = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}


@dataclass(slots=True)
class KeyState:
    """A key's script, and what it has used so far."""

    script: KeyScript
    window: Window = field(default_factory=Window)
    #: End of `rate_limited_for_ms`; None before the first call.
    refusing_until: float | None = None
    #: Set when the key has another script.
    replaced: asyncio.Event = field(default_factory=asyncio.Event)


#: Who comes without a key.
NOBODY = KeyState(KeyScript(name="none", api_key=SecretStr("none"), invalid=True))


@dataclass(frozen=True, slots=True)
class Work:
    """A call that is in order: what it costs, and its good answer, whole or as the events of a stream."""

    tokens: Tokens
    frames: list[bytes]
    stream: bool = False


class Provider:
    """Serves `/v1` as its script says, and journals every call."""

    def __init__(
        self, script: Script, journal: Journal, *, clock: Clock, random: Random, sleep: Sleep
    ) -> None:
        """Start with this script; time, chance and waiting are the caller's, so that tests own them."""
        self.journal = journal
        self.script = script
        self._clock = clock
        self._random = random
        self._sleep = sleep
        self._states: dict[str, KeyState] = {}
        self._by_api_key: dict[str, KeyState] = {}
        self._in_flight: set[asyncio.Task[object]] = set()
        self.configure(script)

    @property
    def in_flight(self) -> int:
        """Calls that are not answered yet."""
        return len(self._in_flight)

    def configure(self, script: Script) -> None:
        """Follow another script; what a key of the same name has used still counts."""
        windows = {name: state.window for name, state in self._states.items()}
        for state in self._states.values():
            state.replaced.set()
        self._states = {key.name: KeyState(key, windows.get(key.name, Window())) for key in script.keys}
        self._index(script)

    def set_key(self, key: KeyScript) -> None:
        """Follow another script for one key; what it has used still counts.

        Raises:
            pydantic.ValidationError: its API key is another's.
        """
        script = self.script.with_key(key)
        before = self._states.get(key.name)
        self._states[key.name] = KeyState(key, before.window if before else Window())
        if before:
            before.replaced.set()
        self._index(script)

    def _index(self, script: Script) -> None:
        self.script = script
        self._by_api_key = {state.script.api_key.get_secret_value(): state for state in self._states.values()}

    async def stop(self) -> None:
        """End the calls that are under way; each gets its line in the journal."""
        calls = set(self._in_flight)
        for call in calls:
            call.cancel()
        if calls:
            await asyncio.wait(calls)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer one call and journal it, whatever becomes of it."""
        draft = Draft(
            at=self._clock(),
            path=request.raw_path.partition("?")[0].removeprefix("/v1"),
            client_request_id=_readable(request.headers.get("x-client-request-id")),
        )
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a handler runs in a task
        self._in_flight.add(task)
        try:
            return await self._answer(request, draft)
        except ConnectionError:
            return web.Response()  # to nobody: the draft says client_gone
        except Exception:
            draft.outcome, draft.http_status = "server_error", 500
            raise
        finally:
            self._in_flight.discard(task)
            self.journal.add(draft.finish(self._clock()))

    async def _answer(self, request: web.Request, draft: Draft) -> web.StreamResponse:
        state = self._identify(request.headers.get("authorization", ""))
        draft.key = state.script.name
        try:
            raw = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return await self._reject(request, draft, state, TOO_LARGE)
        draft.at = self._clock()
        draft.body_sha256 = sha256(raw).hexdigest()
        work = self._decide(request.method, raw, state, draft)
        if isinstance(work, Rejection):
            return await self._reject(request, draft, state, work)
        return await self._perform(request, draft, state, work)

    def _identify(self, authorization: str) -> KeyState:
        scheme, _, api_key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not api_key:
            return NOBODY
        return self._by_api_key.get(api_key) or self._stranger(api_key)

    def _stranger(self, api_key: str) -> KeyState:
        """A key that is not in the script; its journal name tells it from others, but not what it is."""
        name = f"unknown-{sha256(api_key.encode(errors='surrogateescape')).hexdigest()[:8]}"
        invalid = self.script.unknown_keys == "reject"
        return KeyState(KeyScript(name=name, api_key=SecretStr(api_key), invalid=invalid))

    def _decide(self, method: str, raw: bytes, state: KeyState, draft: Draft) -> Work | Rejection:
        if state.script.down:
            return OVERLOADED
        if rejection := refuse_key(state):
            return rejection
        if (method, draft.path) == ("GET", "/models"):
            return Work(Tokens(0, 0), [orjson.dumps(models(state.script.denied_models))])
        if method != "POST" or draft.path not in ENDPOINTS:
            return unknown_path(method, f"/v1{draft.path}")
        prompt = read_prompt(draft.path, raw)
        if isinstance(prompt, Rejection):
            return prompt
        draft.model, draft.stream = prompt.model, prompt.stream
        try:
            work = self._work(prompt, state.script)
        except (AttributeError, KeyError, TypeError, ValueError):
            return MALFORMED
        return refuse_call(state, prompt, work.tokens, draft.at) or work

    def _work(self, prompt: Prompt, script: KeyScript) -> Work:
        reply = compose(prompt)
        tokens = charge(prompt, draw_completion_tokens(script, self._random, natural_tokens(prompt, reply)))
        stamp = Stamp(self._ident(), int(self._clock()))
        if prompt.stream:
            return Work(
                tokens, frames(prompt, reply, tokens, stamp, usage=not script.omit_usage), stream=True
            )
        body = answer(prompt, reply, tokens, stamp)
        if script.omit_usage:
            body.pop("usage", None)
        return Work(tokens, [orjson.dumps(body)])

    async def _perform(
        self, request: web.Request, draft: Draft, state: KeyState, work: Work
    ) -> web.StreamResponse:
        fault = draw_fault(state.script, self._random, stream=work.stream)
        latency_s = draw_latency_s(state.script, self._random)
        if fault == "hang":
            draft.outcome = "hang"
            await asyncio.Event().wait()
        if state.script.held:
            await state.replaced.wait()
        if work.stream and fault in {None, "cut"}:
            return await self._stream(request, draft, state, work, latency_s, cut=fault == "cut")
        if latency_s:
            await self._sleep(latency_s)
        if fault == "dropped":
            draft.outcome = "dropped"
            return _hang_up(request, web.Response())
        if fault in {"server_error", "overloaded"}:
            return await self._reject(
                request, draft, state, OVERLOADED if fault == "overloaded" else SERVER_ERROR
            )
        headers = {**JSON_CONTENT, **self._headers(state)}
        body = BROKEN_JSON if fault == "broken_json" else work.frames[0]
        response = await _send(request, web.Response(body=body, headers=headers))
        draft.outcome, draft.http_status = fault or "ok", 200
        draft.prompt_tokens, draft.completion_tokens = work.tokens.prompt, work.tokens.completion
        return response

    async def _stream(
        self, request: web.Request, draft: Draft, state: KeyState, work: Work, latency_s: float, *, cut: bool
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={**STREAM_CONTENT, **self._headers(state)})
        await response.prepare(request)
        draft.http_status, draft.prompt_tokens = 200, work.tokens.prompt
        total = len(work.frames)
        for sent, frame in enumerate(work.frames[: total // 2] if cut else work.frames, 1):
            if latency_s:
                await self._sleep(latency_s / total)
            await response.write(frame)
            draft.completion_tokens = work.tokens.completion * sent // total
        if cut:
            draft.outcome = "cut"
            return _hang_up(request, response)
        await response.write_eof()
        draft.outcome = "ok"
        return response

    async def _reject(
        self, request: web.Request, draft: Draft, state: KeyState, rejection: Rejection
    ) -> web.StreamResponse:
        headers = {**JSON_CONTENT, **self._headers(state), **rejection.headers}
        body = orjson.dumps(rejection.body)
        response = await _send(request, web.Response(status=rejection.status, body=body, headers=headers))
        draft.outcome, draft.http_status = rejection.outcome, rejection.status
        return response

    def _headers(self, state: KeyState) -> dict[str, str]:
        now = self._clock()
        state.window.forget(now)
        return {"x-request-id": f"req_{self._ident()}", **limit_headers(state.window, state.script, now)}

    def _ident(self) -> str:
        return f"{self._random.getrandbits(128):032x}"


def refuse_key(state: KeyState) -> Rejection | None:
    """Why the key may not call at all."""
    if state is NOBODY:
        return NO_KEY
    if state.script.invalid:
        return INVALID_KEY
    if state.script.deactivated:
        return DEACTIVATED
    return FORBIDDEN if state.script.forbidden else None


def refuse_call(state: KeyState, prompt: Prompt, tokens: Tokens, now: float) -> Rejection | None:
    """Why this call may not pass now; one that may is counted."""
    script, window = state.script, state.window
    if prompt.model in script.denied_models:
        return model_not_found(prompt.model)
    if script.quota_exhausted:
        return QUOTA_EXHAUSTED
    if state.refusing_until is None:
        state.refusing_until = now + script.rate_limited_for_ms / 1000
    if now < state.refusing_until:
        return rate_limited(prompt.model, state.refusing_until - now)
    window.forget(now)
    used = tokens.prompt + tokens.completion
    decision = admit(window, script, now, used)
    if isinstance(decision, Refused):
        return over_limit(prompt.model, decision, now)
    window.take(now, used)
    return None


def _readable(header: str | None) -> str | None:
    """A header without the bytes that are not UTF-8, which could not be written down."""
    return None if header is None else header.encode(errors="replace").decode()


async def _send(request: web.Request, response: web.Response) -> web.Response:
    """Write the whole answer now, so that the journal knows whether anybody took it."""
    await response.prepare(request)
    await response.write_eof()
    return response


def _hang_up(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    if request.transport:
        request.transport.close()
    return response
