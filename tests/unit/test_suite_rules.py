"""Tests that hold on a busy machine: they wait for what comes, for as long as it takes, and measure nothing.

What is a matter of speed is measured by `make bench` (decision 0032).
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
#: They measure, or fill a stack that somebody looks at.
NO_TESTS = ("bench", "unit/bench", "browser/screenshots.py", "browser/seeded_stack.py")
FILES = [
    path
    for path in sorted(TESTS.rglob("*.py"))
    if not path.relative_to(TESTS).as_posix().startswith(NO_TESTS)
]
CLOCKS = {"time.time", "time.monotonic", "time.perf_counter", "time.time_ns", "time.monotonic_ns"}
SLEEPS = {"asyncio.sleep", "time.sleep"}
#: The least that a wait for something good is given, in seconds: where all is well it costs nothing.
PATIENT_S = 30
#: Where a wait is for a while and not for something, by file and by what is waited; with the reason.
ALLOWED_SLEEPS = {
    ("harness.py", "every_s"): "the pause between two looks of `eventually`",
    ("conftest.py", "left_s"): "until midnight, if that is near",
    ("chaos/own_services.py", "away_s"): "what was killed is away for so long",
    ("chaos/test_blocked_broker.py", "blocked_s"): "the broker takes nothing for so long",
    ("chaos/test_stalled_network.py", "stall_s"): "the network is gone for so long",
    ("chaos/test_killed_workers.py", "random.uniform(0, 0.2)"): "a worker dies at any moment",
    ("chaos/test_killed_accounting.py", "random.uniform(0, 0.5)"): "accounting dies at any moment",
    ("chaos/traffic.py", "random.expovariate(load.per_second)"): "requests come at a rate",
    ("chaos/traffic.py", "RETRY_S"): "the broker is away",
    ("integration/test_budget_reservations.py", "0.001"): "a call is given up at any moment",
    ("integration/test_budget_reservations.py", "0.005"): "a call is under way, beside others",
    ("integration/test_client_closing.py", "moment / 5000"): "a call is cancelled at any moment",
    ("integration/test_key_life.py", "0.2"): "requests come at a rate",
    ("integration/test_key_life.py", "60"): "the minute in which a key fails",
    ("unit/infra/local/simulator/test_calls.py", "0.001"): "the pause between two looks",
    ("chaos/noisy_neighbour/acts/provider_connections.py", "0.5"): "a provider that is slow on purpose",
    ("chaos/noisy_neighbour/acts/provider_connections.py", "0.01"): "a provider that is slow on purpose",
    ("chaos/noisy_neighbour/ordinary.py", "1 / per_second"): "requests come at a rate",
    ("chaos/test_hostile_provider.py", "0.1"): "an operator heals a key again and again",
    ("chaos/proxy.py", "self.answers_take_s"): "a network that takes so long",
    ("unit/workers/generation/test_upstream.py", "30"): "a provider that stalls, and is given up before",
    ("unit/workers/generation/test_upstream.py", "self.pause_s"): "a reader that takes so long",
    ("unit/workers/generation/test_call_time.py", "30"): "a provider that stalls, and is given up before",
    ("unit/workers/generation/test_call_time.py", "A_WHILE_S"): "a reader that takes so long",
}


def name_of(path: Path) -> str:
    return path.relative_to(TESTS).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def calls(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree(path)) if isinstance(node, ast.Call))


def is_clock(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) in CLOCKS


def durations(function: ast.AST) -> tuple[set[str], set[str]]:
    """Names that hold readings of a clock, and those that hold differences of such."""
    read: set[str] = set()
    differences: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if is_clock(node.value):
                read.add(node.targets[0].id)
            elif is_difference(node.value, read):
                differences.add(node.targets[0].id)
    return read, differences


def is_difference(node: ast.expr, read: set[str]) -> bool:
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub)):
        return False
    return any(is_clock(side) or getattr(side, "id", None) in read for side in (node.left, node.right))


def is_literal(node: ast.expr) -> bool:
    return all(
        isinstance(part, ast.Constant | ast.BinOp | ast.UnaryOp | ast.operator | ast.unaryop)
        for part in ast.walk(node)
    )


def measured(path: Path) -> Iterator[str]:
    """Comparisons of a time that a test has taken with a number."""
    for function in ast.walk(tree(path)):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        read, differences = durations(function)
        for node in ast.walk(function):
            if isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
                if any(is_literal(side) for side in sides) and any(
                    is_difference(side, read) or getattr(side, "id", None) in differences for side in sides
                ):
                    yield f"{name_of(path)}:{node.lineno}: {ast.unparse(node)}"


def sleeps(path: Path) -> Iterator[tuple[str, str]]:
    for call in calls(path):
        if ast.unparse(call.func) in SLEEPS and ast.unparse(call.args[0]) != "0":
            yield name_of(path), ast.unparse(call.args[0])


def impatient(path: Path) -> Iterator[str]:
    """Waits for something good that give up soon."""
    for call in calls(path):
        function = ast.unparse(call.func)
        waits = call.args[:1] if function == "asyncio.timeout" else []
        waits += call.args[1:2] if function == "asyncio.wait_for" else []
        waits += [keyword.value for keyword in call.keywords if keyword.arg == "within_s"]
        for wait in waits:
            if isinstance(wait, ast.Constant) and float(str(wait.value)) < PATIENT_S:
                yield f"{name_of(path)}:{call.lineno}: {ast.unparse(call)}"


def test_no_test_compares_a_time_that_it_took_with_a_number() -> None:
    assert [found for path in FILES for found in measured(path)] == []


def test_no_test_waits_for_a_while_instead_of_for_something() -> None:
    assert {found for path in FILES for found in sleeps(path)} - ALLOWED_SLEEPS.keys() == set()


def test_no_test_gives_up_soon() -> None:
    assert [found for path in FILES for found in impatient(path)] == []


@pytest.mark.parametrize(
    "source",
    [
        "began = time.time()\n    assert time.time() - began < 5",
        "began = time.monotonic()\n    took = time.monotonic() - began\n    assert 1 < took",
        "then = time.perf_counter()\n    assert 0 <= (time.perf_counter() - then) < 60 / 0.9 + 5",
    ],
)
def test_what_measures_is_found(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "test_it.py"
    path.write_text(f"def test_it():\n    {source}\n")
    monkeypatch.setitem(globals(), "TESTS", tmp_path)
    assert len(list(measured(path))) == 1
