import os
import signal
import subprocess
import sys
from pathlib import Path

from infra.local.leftovers import marked, started_at
from infra.local.process import Child
from infra.local.readiness import logs_event, wait_until_ready
from tests.harness import eventually

ENVIRONMENT = {"PATH": os.environ["PATH"]}
ROOT = Path(__file__).parents[4]
READY = """echo '{"event": "ready"}'"""


async def started(log: Path, script: str) -> Child:
    child = Child("it", ("/bin/sh", "-c", script), ENVIRONMENT, log)
    await child.start()
    await wait_until_ready(child, logs_event("ready"), timeout_s=60)
    return child


async def test_a_child_that_obeys_is_stopped_in_order(tmp_path: Path) -> None:
    child = await started(tmp_path / "it.log", f"trap 'exit 7' TERM; {READY}; while :; do sleep 0.05; done")
    await child.stop(grace_s=60)
    assert await child.wait() == 7
    assert child.pid is None


async def test_a_child_that_does_not_obey_is_killed_after_the_grace(tmp_path: Path) -> None:
    child = await started(tmp_path / "it.log", f"trap '' TERM; {READY}; while :; do sleep 0.05; done")
    await child.stop(grace_s=0.1)
    assert await child.wait() == -signal.SIGKILL


async def test_nothing_that_it_started_outlives_it_even_in_another_session(tmp_path: Path) -> None:
    child = await started(tmp_path / "it.log", f"setsid sleep 60 & {READY}; wait")

    async def are_there() -> bool:
        # Amid an `exec` a process has no environment, and so no mark.
        return len(marked(tmp_path)) >= 2

    await eventually(are_there, "the child and what it started")
    await child.stop(grace_s=60)
    assert marked(tmp_path) == []


async def test_a_new_start_ends_what_the_last_run_left(tmp_path: Path) -> None:
    child = await started(tmp_path / "it.log", f"setsid sleep 60 & {READY}")
    await child.wait()
    found: list[int] = []

    async def is_there() -> bool:
        found[:] = [process.pid for process in marked(tmp_path)]
        return len(found) == 1

    await eventually(is_there, "what the last run left")
    (left,) = found
    await child.start()
    assert started_at(left) is None
    await child.stop(grace_s=0)


async def test_its_output_is_that_of_this_run_and_the_log_keeps_all(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "it.log"
    for _ in range(2):
        child = Child("it", ("/bin/sh", "-c", "echo out; echo error: err >&2"), ENVIRONMENT, log)
        await child.start()
        assert await child.wait() == 0
        assert child.output() == "out\nerror: err\n"
        assert child.last_line() == "err"
    assert log.read_text() == "out\nerror: err\n" * 2


KILLED_PARENT = """
import asyncio, os, pathlib, sys
from infra.local.process import Child

async def main():
    child = Child("it", ("sleep", "60"), {"PATH": os.environ["PATH"]}, pathlib.Path(sys.argv[1]))
    await child.start()
    while b"sleep" not in pathlib.Path(f"/proc/{child.pid}/cmdline").read_bytes().split(b"\\0")[0]:
        await asyncio.sleep(0.01)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


def test_a_child_ends_with_its_killed_parent(tmp_path: Path) -> None:
    command = (sys.executable, "-c", KILLED_PARENT, str(tmp_path / "it.log"))
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    for process in marked(tmp_path):
        process.wait(timeout=60)
