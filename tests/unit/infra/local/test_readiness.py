import os
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from infra.errors import StackError
from infra.local.process import Child
from infra.local.readiness import answers, logs_event, wait_until_ready

READY = logs_event("worker_ready")


def child(log: Path, script: str) -> Child:
    return Child("it", ("/bin/sh", "-c", script), {"PATH": os.environ["PATH"]}, log)


async def test_only_the_event_of_this_run_counts(tmp_path: Path) -> None:
    log = tmp_path / "it.log"
    log.write_text('{"event": "worker_ready"}\n')
    it = child(log, "echo not json; echo '[]'; echo '{\"event\": \"worker_readying\"}'; exec sleep 60")
    await it.start()
    assert not await READY(it)
    with pytest.raises(StackError, match=r"it is not ready after 0\.3 s: "):
        await wait_until_ready(it, READY, timeout_s=0.3)
    await it.stop(grace_s=0)


async def test_a_child_that_ends_first_leaves_its_last_line_in_the_error(tmp_path: Path) -> None:
    it = child(tmp_path / "it.log", "echo fine; echo 'error: no luck' >&2; exit 3")
    await it.start()
    with pytest.raises(StackError, match=r"^it ended with status 3: no luck \(see .*it\.log\)$"):
        await wait_until_ready(it, READY, timeout_s=20)


async def test_a_server_is_ready_when_it_answers_with_200(tmp_path: Path) -> None:
    it = child(tmp_path / "it.log", "")
    statuses = [503, 200]

    async def health(_: web.Request) -> web.Response:
        return web.Response(status=statuses.pop(0))

    app = web.Application()
    app.router.add_get("/health", health)
    async with TestServer(app) as server:
        check = answers(str(server.make_url("/health")))
        assert not await check(it)
        assert await check(it)
    assert not await check(it)
