"""CPU time is that of a process and of all that it started."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.bench.processes import cpu_ms_a_request, cpu_s, memory_mb, tree

#: A process that uses 0.2 s of CPU, once in a child that lives on and once in one that has ended.
SPIN = "import time\nwhile time.process_time() < 0.2: pass\n"
PARENT = f"""
import subprocess, sys
spin = {SPIN!r}
told = "print('spun', flush=True); input()"
subprocess.run([sys.executable, "-c", spin])
child = subprocess.Popen([sys.executable, "-c", spin + told], stdin=subprocess.PIPE)
input()
child.communicate(b"\\n")
"""


@contextmanager
def family() -> Iterator[int]:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"spun\n"
        yield parent.pid
        parent.communicate(b"\n")


def test_children_count_whether_they_live_or_have_ended() -> None:
    with family() as pid:
        assert len(tree(pid)) == 2
        assert cpu_s([pid]) >= 0.38
        assert memory_mb([pid]) > memory_mb([os.getpid()]) / 1000


def test_cpu_per_request_is_the_difference_over_the_requests() -> None:
    assert cpu_ms_a_request(10.0, 12.5, 1000) == pytest.approx(2.5)


@pytest.mark.parametrize(("before_s", "after_s", "requests"), [(1.0, 2.0, 0), (2.0, 1.0, 10)])
def test_what_can_not_be_a_cost_is_refused(before_s: float, after_s: float, requests: int) -> None:
    with pytest.raises(ValueError, match=r"no requests|less CPU time"):
        cpu_ms_a_request(before_s, after_s, requests)
