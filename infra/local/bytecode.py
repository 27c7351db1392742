"""Compiled modules for the stack's Python processes, where this machine forbids Python to keep them."""

from collections.abc import Mapping

from infra.local.home import Home


def with_bytecode(environment: Mapping[str, str], home: Home) -> dict[str, str]:
    """The environment, in which compiled modules go to the data directory if nothing else may hold them.

    Without them, each of half a dozen processes would compile the same thousand modules at every start.
    """
    kept = dict(environment)
    if kept.pop("PYTHONDONTWRITEBYTECODE", None) and not environment.get("PYTHONPYCACHEPREFIX"):
        kept["PYTHONPYCACHEPREFIX"] = str(home.path / "pycache")
    return kept
