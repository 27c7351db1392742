"""Who gets to the console's pages, and to the websocket that they act by."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from tests.console import ADMIN, PASSWORD, VIEWER, Answer, Console

PAGES = (
    "/",
    "/keys",
    "/automations",
    "/requests",
    "/queues",
    "/dead-letters",
    "/alerts",
    "/usage",
    "/operators",
    "/audit",
)
SIGN_IN = "/console/sign-in"
SOCKET = "/console/_nicegui_ws/socket.io/?EIO=4&transport=websocket&client_id="
ELSEWHERE = "https://elsewhere.example"
FORM = {"username": VIEWER, "password": PASSWORD}


async def fetch(session: aiohttp.ClientSession, method: str, path: str, **more: Any) -> Answer:
    async with session.request(method, path, allow_redirects=False, **more) as response:
        return Answer(response.status, response.headers.copy(), await response.text())


@asynccontextmanager
async def browser(console: Console) -> AsyncIterator[aiohttp.ClientSession]:
    """A browser in which nobody is signed in."""
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(console.url, cookie_jar=jar) as session:
        yield session


@asynccontextmanager
async def signed_in(console: Console, username: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A browser whose operator has signed in by the form."""
    async with browser(console) as session:
        form, own = FORM | {"username": username}, {"Origin": console.url}
        answer = await fetch(session, "POST", SIGN_IN, data=form, headers=own)
        assert (answer.status, answer.headers["Location"]) == (303, "/console/")
        yield session


def session_of(browser: aiohttp.ClientSession) -> str:
    """What the browser's cookie holds."""
    (cookie,) = list(browser.cookie_jar)
    assert cookie["httponly"]
    assert cookie["samesite"] == "strict"
    return cookie.value


async def page_id(session: aiohttp.ClientSession) -> str:
    """The id of a page that is loaded for it, by which its websocket is known."""
    answer = await fetch(session, "GET", "/console/keys")
    assert answer.status == 200
    found = re.search(r"client_id['\"]: ?['\"]([0-9a-f-]{36})", answer.text)
    assert found is not None
    return found[1]


async def opens(session: aiohttp.ClientSession, page: str, origin: str) -> bool:
    """Whether a page's websocket opens."""
    try:
        async with session.ws_connect(SOCKET + page, headers={"Origin": origin}) as socket:
            return (await socket.receive_str()).startswith("0")
    except aiohttp.WSServerHandshakeError as error:
        return error.status != 403


@pytest.mark.parametrize("page", PAGES)
async def test_nobody_sees_a_page_without_signing_in(console: Console, page: str) -> None:
    answer = await console.nobody.call("GET", f"/console{page}")
    assert (answer.status, answer.headers["Location"]) == (303, f"{SIGN_IN}?next=/console{page}")


async def test_a_websocket_opens_for_its_own_page_session_and_site_alone(console: Console) -> None:
    async with (
        signed_in(console, VIEWER) as own,
        signed_in(console, ADMIN) as another,
        browser(console) as nobody,
    ):
        page = await page_id(own)
        assert await opens(own, page, console.url)
        assert not await opens(own, page, ELSEWHERE)
        assert not await opens(another, page, console.url)
        assert not await opens(nobody, page, console.url)


@pytest.mark.parametrize("form", ["sign-in", "password", "sign-out"])
async def test_forms_of_another_site_are_refused(console: Console, form: str) -> None:
    async with signed_in(console, VIEWER) as session:
        for headers in ({"Origin": ELSEWHERE}, {"Origin": "null"}, {}):
            answer = await fetch(session, "POST", f"/console/{form}", data=FORM, headers=headers)
            assert answer.status == 403, headers
        assert (await fetch(session, "GET", "/console/keys")).status == 200


@pytest.mark.parametrize(
    ("wanted", "led_to"),
    [
        ("/console/keys", "/console/keys"),
        ("//elsewhere.example/console/", "/console/"),
        ("https://elsewhere.example/console/", "/console/"),
        ("/console/\\elsewhere.example", "/console/"),
        ("/api/docs", "/console/"),
    ],
)
async def test_signing_in_leads_to_pages_of_the_console_alone(
    console: Console, wanted: str, led_to: str
) -> None:
    async with browser(console) as session:
        own = {"Origin": console.url}
        answer = await fetch(session, "POST", SIGN_IN, params={"next": wanted}, data=FORM, headers=own)
        assert (answer.status, answer.headers["Location"]) == (303, led_to)


async def test_signing_in_by_the_form_starts_a_new_session_and_ends_the_old_one(console: Console) -> None:
    async with signed_in(console, VIEWER) as session:
        first = session_of(session)
        await fetch(session, "POST", SIGN_IN, data=FORM, headers={"Origin": console.url})
        assert session_of(session) != first
        old = {"Cookie": f"keyway={first}"}
        assert (await console.nobody.call("GET", "/console/keys", headers=old)).status == 303


@pytest.mark.parametrize("path", ["/console/", SIGN_IN, "/console/password"])
async def test_pages_load_and_send_nothing_elsewhere_and_stand_in_no_frame(
    console: Console, path: str
) -> None:
    async with signed_in(console, VIEWER) if path != SIGN_IN else browser(console) as session:
        answer = await fetch(session, "GET", path)
    policy = answer.headers["Content-Security-Policy"]
    assert answer.status == 200
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "http" not in policy
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Cache-Control"] == "no-store"
