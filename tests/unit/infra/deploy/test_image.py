"""The image: what is built, as whom it runs. There is no Docker engine here, so that none is built."""

import json
import re
import tomllib
from pathlib import Path

from tests.package_tool import run_tool

ROOT = Path(__file__).parents[4]
PATH = ROOT / "infra/deploy/Dockerfile"
DOCKERFILE = PATH.read_text()


def copied() -> set[str]:
    """What the Dockerfile takes from the project."""
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    return {source for line in lines for source in line.split()}


def test_a_linter_has_nothing_to_say() -> None:
    assert run_tool("hadolint", str(PATH)) == (0, "")


def test_the_linter_would_find_an_image_without_a_version() -> None:
    wrong = DOCKERFILE.replace("python:3.12-slim", "python")
    status, said = run_tool("hadolint", "-", stdin=wrong)
    assert status
    assert "DL3006" in said


def test_every_image_that_it_stands_on_is_pinned() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(bases) == 2
    assert [base for base in bases if not re.fullmatch(r"[\w./-]+:\d+[\w.-]*", base)] == []


def test_it_runs_the_project_s_script() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    entry = re.search(r"^ENTRYPOINT (.+)$", DOCKERFILE, re.MULTILINE)
    assert entry is not None
    assert json.loads(entry.group(1)) == ["keyway"]
    assert scripts["keyway"] == "workers.cli.main:main"


def test_it_runs_without_root_by_a_number() -> None:
    """Kubernetes knows only of a number that it is not root."""
    assert re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE) == ["10001:10001"]
    assert "--uid 10001" in DOCKERFILE


def test_what_it_installs_is_in_the_lock_and_checked_by_hash() -> None:
    installs = re.findall(r"^RUN uv pip install (.+)$", DOCKERFILE, re.MULTILINE)
    assert installs == [
        "--require-hashes -r pyproject.toml --extra platform -c requirements.lock",
        "--no-deps .",
    ]


def test_the_build_sees_what_it_copies_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == copied()
    assert [source for source in copied() if not (ROOT / source).exists()] == []
