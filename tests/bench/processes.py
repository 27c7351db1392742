"""What processes cost: CPU time and memory of a process and of all that it started.

Ratios of CPU time hardly depend on what else a machine does, which is why they are what is compared.
"""

from collections.abc import Iterable
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped, unused-ignore]

MEGABYTE = 1024 * 1024


def tree(pid: int) -> list[psutil.Process]:
    """A process and its descendants."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def cpu_s(pids: Iterable[int]) -> float:
    """CPU time of processes and their descendants so far, user and system, in seconds.

    What ended descendants used counts, once their parent has taken note of their end.
    """
    seconds = 0.0
    for pid in pids:
        for process in tree(pid):
            times = process.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


def cpu_ms_a_request(before_s: float, after_s: float, requests: int) -> float:
    """What one of so many requests cost, in milliseconds of CPU time.

    Raises:
        ValueError: there were none, or the clock went back: a process ended in between.
    """
    if requests < 1:
        raise ValueError("no requests were measured")
    if after_s < before_s:
        raise ValueError("less CPU time than before: one of the processes is another's")
    return (after_s - before_s) * 1000 / requests


def memory_mb(pids: Iterable[int]) -> float:
    """Memory of processes and their descendants, in MB.

    It is the resident set of a process that is alone, and of several the sum of what each shares with the
    others in part (`PSS`), so that forked children are not counted twice.
    """
    found = [process for pid in pids for process in tree(pid)]
    if len(found) == 1:
        return float(found[0].memory_info().rss) / MEGABYTE
    return sum(float(process.memory_full_info().pss) for process in found) / MEGABYTE


def listening_on(url: str) -> int | None:
    """The process on this machine that listens at an address; None when it is elsewhere."""
    port = urlsplit(url).port
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
            pid: int | None = connection.pid
            return pid
    return None
