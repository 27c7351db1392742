"""Files that only their owner reads: passwords, keys, addresses with credentials."""

import os
from collections.abc import Callable
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600 in one step: a reader finds the old text or the new one, never a part."""
    half = path.with_name(f"{path.name}.new")
    half.unlink(missing_ok=True)
    with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    half.replace(path)


def read_or_create(path: Path, make: Callable[[], str]) -> str:
    """The file's text; what `make` returns, when it is not there yet."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        text = make()
        write_private(path, text + "\n")
        return text
