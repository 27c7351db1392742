from pathlib import Path

import pytest

from infra.errors import StackError
from infra.local.mongod import find_mongod, missing_library


def program(folder: Path, script: str) -> Path:
    path = folder / "mongod"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_a_mongod_on_the_path_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = program(tmp_path, "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert find_mongod() == mine


def test_a_missing_library_is_named(tmp_path: Path) -> None:
    loader = "error while loading shared libraries: libcurl.so.4: cannot open shared object file"
    assert missing_library(program(tmp_path, f"echo 'mongod: {loader}' >&2; exit 127")) == "libcurl.so.4"


def test_a_mongod_that_runs_misses_nothing(tmp_path: Path) -> None:
    assert missing_library(program(tmp_path, "echo db version v6.0.5")) is None


def test_a_mongod_that_fails_otherwise_says_why(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="mongod does not run: Illegal instruction"):
        missing_library(program(tmp_path, "echo Illegal instruction >&2; exit 132"))
