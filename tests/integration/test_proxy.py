"""The console behind the proxy of compose's profile `proxy`: a real Caddy with that very Caddyfile."""

import asyncio
import fcntl
import os
import re
import shutil
import ssl
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from pydantic import SecretStr
from rich.console import Console as Terminal

from infra.errors import StackError
from infra.local.packages import Missing, install
from infra.local.ports import choose_ports
from infra.local.process import Child
from tests.console import PASSWORD
from tests.harness import World, eventually
from workers.console.access.operators import Operators, Role

CADDYFILE = Path(__file__).parents[2] / "infra/deploy/caddy/Caddyfile"
LOCK = Path(tempfile.gettempdir()) / f"keyway-tests-caddy-{os.getuid()}.lock"
CADDY = Missing("caddy", "the proxy's test needs it", "run the other tests")
#: What a machine without a public name needs: no port 80, no admin, nothing installed into the system.
HERE = "{\n\tadmin off\n\tskip_install_trust\n\tauto_https disable_redirects\n}\n"
OPERATOR = "behind-a-proxy"


def caddy_program() -> str:
    """Where it is; without one, and without the right to install it, the test is skipped, but not in CI."""
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes, and one of them installs it
        if (found := shutil.which("caddy")) is None:
            try:
                install(CADDY, Terminal(stderr=True))
            except StackError as error:
                if os.geteuid() == 0 or os.environ.get("CI"):
                    raise
                pytest.skip(str(error))
            found = shutil.which("caddy")
    assert found is not None, "caddy is installed, and not found"
    return found


@dataclass(frozen=True)
class Proxied:
    """A browser, and where it finds the console."""

    url: str
    session: aiohttp.ClientSession


@pytest.fixture
async def proxied(shared: World, tmp_path: Path) -> AsyncIterator[Proxied]:
    program = await asyncio.to_thread(caddy_program)
    secure = {"KEYWAY_CONSOLE_PORT": "0", "KEYWAY_CONSOLE_SECURE_COOKIES": "true"}
    console = await shared.start("console", ready="console_ready", clock_offset_s=0, **secure)
    (ready,) = [event for event in console.events() if event["event"] == "console_ready"]
    await Operators(shared.mongo).add(OPERATOR, Role.VIEWER)
    await Operators(shared.mongo).set_password(OPERATOR, SecretStr(PASSWORD))
    port = choose_ports({"https": None}, {})["https"]
    (tmp_path / "Caddyfile").write_text(HERE + CADDYFILE.read_text())
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "XDG_DATA_HOME": str(tmp_path),
        "CONSOLE_DOMAIN": f"https://localhost:{port}",
        "CONSOLE_UPSTREAM": str(ready["url"]).removeprefix("http://"),
    }
    command = (program, "run", "--adapter", "caddyfile", "--config", str(tmp_path / "Caddyfile"))
    caddy = Child("caddy", command, environment, tmp_path / "caddy.log")
    authority = tmp_path / "caddy/pki/authorities/local/root.crt"
    try:
        await caddy.start()

        async def has_authority() -> bool:
            assert caddy.pid, caddy.last_line()
            return authority.exists() and authority.stat().st_size > 0

        await eventually(has_authority, f"{authority}; see {caddy.log}")
        url = f"https://localhost:{port}"
        trusted = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(authority)))
        async with aiohttp.ClientSession(connector=trusted) as session:

            async def serves() -> bool:
                try:
                    async with session.get(f"{url}/healthz") as answer:
                        return answer.status == 200
                except aiohttp.ClientError:
                    return False

            await eventually(serves, f"the console at {url}; see {caddy.log}")
            yield Proxied(url, session)
    finally:
        await caddy.stop(5)
        await console.stop()


async def test_an_operator_signs_in_by_https_and_is_served_live(proxied: Proxied) -> None:
    form, own = {"username": OPERATOR, "password": PASSWORD}, {"Origin": proxied.url}
    sign_in = f"{proxied.url}/console/sign-in"
    async with proxied.session.post(sign_in, data=form, headers=own, allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, "/console/")
        assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
        assert all("secure" in cookie.lower() for cookie in answer.headers.getall("Set-Cookie"))
    async with proxied.session.get(f"{proxied.url}/console/keys") as answer:
        page = re.search(r"client_id['\"]: ?['\"]([0-9a-f-]{36})", await answer.text())
    assert page is not None
    live = f"{proxied.url}/console/_nicegui_ws/socket.io/?EIO=4&transport=websocket&client_id={page[1]}"
    async with proxied.session.ws_connect(live, headers=own) as socket:
        assert (await socket.receive_str()).startswith("0")
