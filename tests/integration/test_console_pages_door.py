"""Who gets to the console's pages, and to the websocket that they act by."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from tests.console import ADMIN, PASSWORD, VIEWER, Console

PAGES = (
    "/",
    "/keys",
    "/automations",
    "/requests",
    "/queues",
    "/dead-letters",
    "/usage",
    "/operators",
    "/audit",
)
SOCKET = "/console/_nicegui_ws/socket.io/?EIO=4&transport=websocket&client_id="
ELSEWHERE = "https://elsewhere.example"


@asynccontextmanager
async def signed_in(console: Console, username: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(console.url, cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        form = {"username": username, "password": PASSWORD}
        headers = {"Origin": console.url}
        answer = await session.post("/console/sign-in", data=form, headers=headers, allow_redirects=False)
        assert (answer.status, answer.headers["Location"]) == (303, "/console/")
        yield session


async def client_id(session: aiohttp.ClientSession) -> str:
    """The id of a page that was loaded, by which its websocket is known."""
    answer = await session.get("/console/keys")
    assert answer.status == 200
    found = re.search(
        r"'client_id': '([0-9a-f-]{36})'|\"client_id\": ?\"([0-9a-f-]{36})\"", await answer.text()
    )
    assert found is not None
    return found[1] or found[2]


async def opens(session: aiohttp.ClientSession, page: str, origin: str) -> bool:
    try:
        async with session.ws_connect(SOCKET + page, headers={"Origin": origin}) as socket:
            return (await socket.receive_str()).startswith("0")
    except aiohttp.WSServerHandshakeError as error:
        assert error.status == 403
        return False


@pytest.mark.parametrize("page", PAGES)
async def test_nobody_sees_a_page_without_signing_in(console: Console, page: str) -> None:
    answer = await console.nobody.call("GET", f"/console{page}")
    assert (answer.status, answer.headers["Location"]) == (303, f"/console/sign-in?next=/console{page}")


async def test_a_websocket_opens_for_its_own_page_session_and_site_alone(console: Console) -> None:
    async with signed_in(console, VIEWER) as own, signed_in(console, ADMIN) as another:
        page = await client_id(own)
        assert await opens(own, page, console.url)
        assert not await opens(own, page, ELSEWHERE)
        assert not await opens(another, page, console.url)
        async with aiohttp.ClientSession(console.url) as nobody:
            assert not await opens(nobody, page, console.url)


@pytest.mark.parametrize("form", ["sign-in", "password", "sign-out"])
async def test_forms_of_another_site_are_refused(console: Console, form: str) -> None:
    async with signed_in(console, VIEWER) as session:
        for headers in ({"Origin": ELSEWHERE}, {"Origin": "null"}, {}):
            answer = await session.post(f"/console/{form}", data={}, headers=headers)
            assert answer.status == 403, headers
        assert (await session.get("/console/keys", allow_redirects=False)).status == 200


async def test_signing_in_leads_to_pages_of_the_console_alone(console: Console) -> None:
    form = {"username": VIEWER, "password": PASSWORD}
    for wanted, led_to in (
        ("/console/keys", "/console/keys"),
        ("//elsewhere.example/console/", "/console/"),
        ("https://elsewhere.example/console/", "/console/"),
        ("/console/\\elsewhere.example", "/console/"),
        ("/api/docs", "/console/"),
    ):
        async with aiohttp.ClientSession(console.url) as session:
            answer = await session.post(
                "/console/sign-in",
                params={"next": wanted},
                data=form,
                headers={"Origin": console.url},
                allow_redirects=False,
            )
            assert (answer.status, answer.headers["Location"]) == (303, led_to)


async def test_signing_in_by_the_form_starts_a_new_session_and_ends_the_old_one(console: Console) -> None:
    async with signed_in(console, VIEWER) as session:
        (first,) = list(session.cookie_jar)
        form = {"username": VIEWER, "password": PASSWORD}
        await session.post("/console/sign-in", data=form, headers={"Origin": console.url})
        (second,) = list(session.cookie_jar)
        assert first.value != second.value
        old = {"Cookie": f"{first.key}={first.value}"}
        answer = await console.nobody.call("GET", "/console/keys", headers=old)
        assert answer.status == 303


async def test_pages_may_load_and_send_nothing_elsewhere_and_stand_in_no_frame(console: Console) -> None:
    async with signed_in(console, VIEWER) as session:
        for path in ("/console/", "/console/sign-in", "/console/password"):
            answer = await session.get(path, allow_redirects=False)
            policy = answer.headers.get("Content-Security-Policy", "")
            if answer.status == 200:
                assert "default-src 'none'" in policy, path
                assert "frame-ancestors 'none'" in policy, path
                assert "http" not in policy, path
                assert answer.headers["Cache-Control"] == "no-store", path
            assert answer.headers["X-Frame-Options"] == "DENY", path
