"""Every background task has an owner, and there is one retry loop: the sources show it."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path for folder in ("contracts", "infra", "workers") for path in (ROOT / folder).rglob("*.py")
)
#: Where tasks are made; all others are given to one of these.
OWNERS = {"infra/background_tasks.py", "contracts/background.py"}
#: Functions whose task is awaited, or cancelled and awaited, by whoever asked for it.
AWAITED = {
    "contracts/durable_replies.py": {"__init__", "next"},
    "contracts/many.py": {"in_order"},
    "contracts/openai_transport.py": {"_opened"},
    "infra/local/stack.py": {"backing_services"},
    "infra/local/supervisor.py": {"run"},
    "workers/generation/attempts.py": {"_stream"},
    "workers/generation/claiming.py": {"_reserve"},
}


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a file, with the name of the function that it stands in."""

    def walk(node: ast.AST, function: str) -> Iterator[tuple[str, ast.Call]]:
        for child in ast.iter_child_nodes(node):
            inner = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
            if isinstance(child, ast.Call):
                yield function, child
            yield from walk(child, inner)

    yield from walk(ast.parse(path.read_text()), "")


def is_loose(call: ast.Call) -> bool:
    """Whether it makes a task that no `TaskGroup` owns."""
    match call.func:
        case ast.Attribute(value=ast.Name(id="asyncio"), attr="create_task" | "ensure_future"):
            return True
        case ast.Attribute(value=ast.Name(id="loop"), attr="create_task"):
            return True
    return False


def test_every_background_task_has_an_owner() -> None:
    found = {
        (str(path.relative_to(ROOT)), function)
        for path in SOURCES
        for function, call in calls(path)
        if is_loose(call)
    }
    unowned = {
        (path, function)
        for path, function in found
        if path not in OWNERS and function not in AWAITED.get(path, set())
    }
    assert not unowned, "give them to `BackgroundTasks`, or await them in a `TaskGroup`"
