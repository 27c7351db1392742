import io
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from infra.errors import StackError
from infra.local import packages
from infra.local.packages import Found, first_missing

RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
MONGOD = Path("/venv/bin/mongod")


def test_nothing_is_installed_where_everything_is_there() -> None:
    assert first_missing(Found(RABBITMQ, MONGOD, None), rabbitmq=True, mongod=True) is None


def test_a_missing_rabbitmq_comes_from_its_package() -> None:
    missing = first_missing(Found(None, MONGOD, None), rabbitmq=True, mongod=True)
    assert missing is not None
    assert missing.package == "rabbitmq-server"


def test_the_library_that_mongod_wants_comes_from_its_package() -> None:
    missing = first_missing(Found(RABBITMQ, MONGOD, "libcurl.so.4"), rabbitmq=True, mongod=True)
    assert missing is not None
    assert missing.package == "libcurl4"
    assert missing.why == "/venv/bin/mongod needs libcurl.so.4"


def test_what_is_not_to_be_started_here_is_not_installed() -> None:
    assert first_missing(Found(None, None, None), rabbitmq=False, mongod=False) is None


def test_without_a_mongod_the_error_says_how_to_get_one() -> None:
    with pytest.raises(StackError, match=r"pip install 'keyway\[local\]', or set KEYWAY_MONGO_URL"):
        first_missing(Found(RABBITMQ, None, None), rabbitmq=True, mongod=True)


def test_a_library_that_no_package_is_known_for_is_named() -> None:
    with pytest.raises(StackError, match=r"libodd\.so\.9"):
        first_missing(Found(RABBITMQ, MONGOD, "libodd.so.9"), rabbitmq=True, mongod=True)


def test_who_may_not_install_is_told_what_root_has_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_rabbitmq_server", lambda: None)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(StackError, match="as root, apt-get install rabbitmq-server; or set KEYWAY_AMQP_URL"):
        packages.ensure_installed(Console(file=io.StringIO()), rabbitmq=True, mongod=False)


def test_a_failing_installation_ends_with_the_last_line_of_its_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    apt_get = tmp_path / "apt-get"
    apt_get.write_text("#!/bin/sh\necho Reading\necho E: first >&2\necho E: Unable to locate >&2\nexit 100\n")
    apt_get.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(packages, "find_rabbitmq_server", lambda: None)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    told = io.StringIO()
    with pytest.raises(StackError, match="apt-get install rabbitmq-server failed: E: Unable to locate;"):
        packages.ensure_installed(Console(file=told), rabbitmq=True, mongod=False)
    assert "installing rabbitmq-server, since RabbitMQ is not installed" in told.getvalue()


def test_what_is_missing_is_installed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(packages, "find_rabbitmq_server", lambda: RABBITMQ if len(commands) == 2 else None)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/apt-get")

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr("subprocess.run", run)
    packages.ensure_installed(Console(file=io.StringIO()), rabbitmq=True, mongod=False)
    assert [command[-1] for command in commands] == ["update", "rabbitmq-server"]
