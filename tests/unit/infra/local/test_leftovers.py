import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.local.leftovers import MARK, end, marked, started_at
from tests.harness import eventually

# It says that it has its trap, and then can only be killed.
STUBBORN = "trap '' TERM; echo ready; while :; do sleep 0.1; done"


@pytest.fixture
def orphan(tmp_path: Path) -> Iterator[int]:
    """A marked process whose parent is gone, as after a supervisor was killed."""
    mark = {"PATH": os.environ["PATH"], MARK: str(tmp_path / "logs" / "rabbitmq.log")}
    script = f'sh -c "{STUBBORN}" & echo $!; wait $!'
    with subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE, text=True, env=mark) as parent:
        assert parent.stdout
        lines = {parent.stdout.readline().strip(), parent.stdout.readline().strip()}
        parent.kill()
    (pid,) = (int(line) for line in lines - {"ready"})
    yield pid
    if started_at(pid):
        os.kill(pid, 9)


async def test_what_outlived_its_parent_is_found_by_its_mark_and_ended(orphan: int, tmp_path: Path) -> None:
    found = marked(tmp_path)
    assert orphan in [process.pid for process in found]
    await end(found, grace_s=0.1)
    assert started_at(orphan) is None

    async def is_nothing_left() -> bool:
        # Its last `sleep` may have begun after it was found, and ends by itself.
        return marked(tmp_path) == []

    await eventually(is_nothing_left, "nothing of the orphan")


def test_processes_of_another_directory_are_left_alone(orphan: int, tmp_path: Path) -> None:
    assert marked(tmp_path / "logs" / "mongod.log") == []
    assert marked(Path(f"{tmp_path}-other")) == []


def test_a_process_that_never_was_has_no_start() -> None:
    assert started_at(2**22 + 1) is None


def test_two_processes_with_the_same_id_differ_by_their_start() -> None:
    assert started_at(os.getpid()) == started_at(os.getpid()) != started_at(1)
