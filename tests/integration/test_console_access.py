"""Who may use the console: sign-in, sessions, roles, CSRF, tokens, guessing."""

import asyncio
import io
import json
import secrets
from collections.abc import AsyncIterator

import aiohttp
import pytest
from yarl import URL

from infra.mongo import Mongo
from tests.console import ADMIN, PASSWORD, VIEWER, Client, Console
from workers.console.access.failures import Failures
from workers.console.access.operators import Role
from workers.console.access.sign_in import MOST_OF_ADDRESS, MOST_OF_USERNAME
from workers.console.api import reference
from workers.console.api.body_limit import LARGEST_BODY

OTHER_PASSWORD = "another horse battery staple"


@pytest.fixture
async def operator(console: Console) -> str:
    """An operator of this test only, an admin."""
    name = f"op-{secrets.token_hex(4)}"
    await console.add_operator(name, Role.ADMIN)
    return name


@pytest.fixture
async def browser(console: Console) -> AsyncIterator[Client]:
    async with console.browser() as client:
        yield client


@pytest.fixture
async def forgiving(console: Console) -> AsyncIterator[Mongo]:
    """Failures of a test are no other test's."""
    yield console.world.mongo
    await console.world.mongo.sign_in_failures.delete_many({})


async def status(client: Client) -> int:
    return (await client.call("GET", "/api/session")).status


async def test_an_operator_signs_in_chooses_a_password_and_signs_out(
    console: Console, browser: Client, forgiving: Mongo
) -> None:
    name = f"op-{secrets.token_hex(4)}"
    status, stdout, stderr = await console.world.cli("operators", "add", name, "--role", "admin", "--json")
    assert status == 0, stderr
    one_time = json.loads(stdout)["one_time_password"]
    assert (await browser.call("GET", "/api/operators")).status == 401
    assert (await browser.sign_in(name, "wrong")).status == 401
    answer = await browser.sign_in(name, one_time)
    assert (answer.status, answer.json["must_change_password"]) == (200, True)
    assert (await browser.call("GET", "/api/operators")).status == 403, "nothing before one's own password"
    change = {"current": one_time, "new": PASSWORD}
    answer = await browser.call("PUT", "/api/session/password", change, headers={"X-CSRF-Token": ""})
    assert answer.status == 403
    answer = await browser.call("PUT", "/api/session/password", change)
    assert (answer.status, answer.json["must_change_password"]) == (200, False)
    browser.headers["X-CSRF-Token"] = answer.json["csrf_token"]
    assert (await browser.call("GET", "/api/operators")).status == 200
    assert (await browser.sign_in(name, one_time)).status == 401
    assert (await browser.sign_in(name)).status == 200
    assert (await browser.call("DELETE", "/api/session")).status == 204
    assert (await browser.call("GET", "/api/session")).status == 401


async def test_a_session_is_never_one_that_the_browser_brought(console: Console, operator: str) -> None:
    planted = "planted-by-somebody-else"
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        session.cookie_jar.update_cookies({"keyway": planted}, URL(console.url))
        client = Client(session, console.url, {})
        assert await status(client) == 401
        answer = await client.sign_in(operator)
        cookie = answer.headers["Set-Cookie"]
        assert planted not in cookie
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert "Path=/" in cookie
        thief = Client(console.session, console.url, {"Cookie": f"keyway={planted}"})
        assert await status(thief) == 401
        first = cookie.partition(";")[0]
        await client.sign_in(operator)
        assert await status(Client(console.session, console.url, {"Cookie": first})) == 401, (
            "a session ends where its browser signs in anew"
        )


async def test_a_session_that_was_signed_out_is_over_for_whoever_kept_its_cookie(
    console: Console, browser: Client, operator: str
) -> None:
    cookie = (await browser.sign_in(operator)).headers["Set-Cookie"].partition(";")[0]
    kept = Client(console.session, console.url, {"Cookie": cookie})
    assert await status(kept) == 200
    await browser.do("DELETE", "/api/session", status=204)
    assert await status(kept) == 401


async def test_switching_an_operator_off_and_changing_their_role_take_effect_at_once(
    console: Console, browser: Client, operator: str
) -> None:
    script = console.script(operator)
    await browser.sign_in(operator)
    assert (await browser.call("GET", "/api/operators")).status == 200
    await console.admin.do("PATCH", f"/api/operators/{operator}", {"role": "viewer"})
    assert (await script.call("GET", "/api/operators")).status == 403
    await browser.sign_in(operator)
    assert (await browser.call("GET", "/api/operators")).status == 403
    await console.admin.do("PATCH", f"/api/operators/{operator}", {"enabled": False})
    assert [await status(browser), await status(script)] == [401, 401]
    assert (await browser.sign_in(operator)).status == 401
    await console.world.mongo.sign_in_failures.delete_many({})


async def test_a_change_needs_the_sessions_own_csrf_token_and_no_other_site(
    console: Console, browser: Client, operator: str
) -> None:
    bot = await console.world.add_automation()
    await browser.sign_in(operator)
    async with console.browser() as other:
        await other.sign_in(VIEWER)
        foreign = other.headers["X-CSRF-Token"]
    path, body = f"/api/automations/{bot}", {"deadline_s": 60}
    for wrong in ("", "x", foreign, browser.headers["X-CSRF-Token"][:-1]):
        assert (await browser.call("PATCH", path, body, headers={"X-CSRF-Token": wrong})).status == 403
    for site in ("cross-site", "same-site"):
        assert (await browser.call("PATCH", path, body, headers={"Sec-Fetch-Site": site})).status == 403
    assert (await console.admin.get(path))["deadline_s"] == 600
    assert (await browser.call("PATCH", path, body, headers={"Sec-Fetch-Site": "same-origin"})).status == 200
    assert (await console.admin.get(path))["deadline_s"] == 60


async def test_a_token_does_no_more_than_its_role_and_ends_with_its_removal(
    console: Console, operator: str
) -> None:
    script = console.script(operator)
    made = await script.do("POST", "/api/tokens", {"label": "reads", "days": 1}, status=201)
    reader = Client(console.session, console.url, {"Authorization": f"Bearer {made['token']}"})
    assert (await reader.call("GET", "/api/keys")).status == 200
    assert (await reader.call("POST", "/api/automations", {"automation_id": "x"})).status == 403
    assert made["token"] not in (await script.call("GET", "/api/tokens")).text
    await script.do("DELETE", f"/api/tokens/{made['id']}", status=204)
    assert (await reader.call("GET", "/api/keys")).status == 401


async def test_what_is_guessed_often_has_to_wait_even_if_it_is_right(
    console: Console, browser: Client, operator: str, forgiving: Mongo
) -> None:
    for _ in range(MOST_OF_USERNAME):
        assert (await browser.sign_in(operator, "wrong password")).status == 401
    answer = await browser.sign_in(operator)
    assert answer.status == 429
    assert int(answer.headers["Retry-After"]) > 60
    assert (await browser.sign_in(ADMIN)).status == 200, "others are not locked out"


async def test_guessing_in_parallel_is_counted_too(console: Console, operator: str, forgiving: Mongo) -> None:
    async def guess(number: int) -> int:
        return (await console.nobody.sign_in(operator, f"wrong password {number}")).status

    statuses = await asyncio.gather(*(guess(number) for number in range(MOST_OF_USERNAME * 3)))
    assert sorted(statuses) == [401] * MOST_OF_USERNAME + [429] * MOST_OF_USERNAME * 2


async def test_an_address_that_guesses_at_many_usernames_has_to_wait(
    console: Console, forgiving: Mongo
) -> None:
    for _ in range(MOST_OF_ADDRESS - 2):
        await Failures(forgiving).count("address:127.0.0.1", MOST_OF_ADDRESS)
    statuses = [(await console.nobody.sign_in(f"nobody-{number}", "wrong")).status for number in range(3)]
    assert statuses == [401, 401, 429]


async def test_wrong_service_tokens_are_counted_in_parallel_and_right_ones_are_not(
    console: Console, forgiving: Mongo
) -> None:
    bot = await console.world.add_automation()
    path, body = f"/api/automations/{bot}/openai-usage", {"unknown": 1}

    async def call(client: Client) -> int:
        return (await client.call("POST", path, body)).status

    right = [call(console.automation(bot)) for _ in range(40)]
    assert set(await asyncio.gather(*right)) == {422}, "the body is wrong, the token is right"
    guesses = [
        call(Client(console.session, console.url, {"Authorization": f"Bearer guess-{number}"}))
        for number in range(20)
    ]
    statuses = await asyncio.gather(*guesses)
    assert sorted(set(statuses)) == [403, 429]
    assert statuses.count(403) == 10
    assert await call(console.automation(bot)) == 422, "who was let in stays in"


async def test_the_audit_log_says_who_changed_what_and_no_secret(console: Console, operator: str) -> None:
    script = console.script(operator)
    bot = await console.world.add_automation()
    secret = f"sk-audit-{secrets.token_hex(16)}"
    await script.do("PATCH", f"/api/automations/{bot}", {"deadline_s": 60, "enabled": False})
    key = {"automation_id": bot, "alias": "Primary", "api_key": secret, "requests_per_minute": 5}
    await script.do("POST", "/api/keys", key, status=201)
    made = await script.do("POST", "/api/tokens", {"label": "x", "days": 1}, status=201)
    answer = await console.viewer.call("GET", "/api/audit", params={"actor": f"console:{operator}"})
    by_action = {entry["action"]: entry for entry in answer.json}
    assert by_action["automation.changed"]["target"] == bot
    assert by_action["automation.changed"]["before"] == {"deadline_s": 600, "enabled": True}
    assert by_action["automation.changed"]["after"] == {"deadline_s": 60, "enabled": False}
    assert by_action["key.added"]["target"] == f"{bot}/Primary"
    assert by_action["key.added"]["after"]["last_four"] == secret[-4:]
    assert secret not in answer.text
    assert made["token"] not in answer.text


async def test_every_answer_tells_browsers_what_not_to_do(console: Console) -> None:
    for path in ("/healthz", "/api/session", "/api/keys", "/api/none", "/api/openapi.json"):
        headers = (await console.admin.call("GET", path)).headers
        assert headers["X-Content-Type-Options"] == "nosniff", path
        assert headers["X-Frame-Options"] == "DENY", path
        if path.startswith("/api/"):
            assert headers["Cache-Control"] == "no-store", path


async def test_a_body_that_is_too_large_is_not_read_to_its_end(console: Console) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b" " * 1024 * 1024

    for body in (io.BytesIO(b" " * (LARGEST_BODY + 1)), parts()):
        try:
            answer = await console.admin.call("POST", "/api/session", data=body)
        except aiohttp.ClientError:
            continue  # cut off while it was sent
        assert answer.status in {400, 413}
    assert (await console.admin.call("GET", "/healthz")).status == 200


async def test_the_page_of_the_reference_runs_no_script_but_its_own(console: Console) -> None:
    page = await console.nobody.call("GET", "/api/docs")
    assert (page.status, page.headers["Content-Security-Policy"]) == (200, reference.POLICY)
    assert "<script>" not in page.text
    for name in reference.FILES:
        assert f'"/api/docs/{name}"' in page.text
        answer = await console.nobody.call("GET", f"/api/docs/{name}")
        assert (answer.status, answer.headers["X-Content-Type-Options"]) == (200, "nosniff"), name
    keys = await console.viewer.call("GET", "/api/keys")
    assert "Access-Control-Allow-Origin" not in keys.headers
    assert keys.headers["Content-Security-Policy"].startswith("default-src 'none'")
