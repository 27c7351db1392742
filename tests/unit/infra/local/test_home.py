import os
import stat
from pathlib import Path

import pytest

from infra.errors import StackError
from infra.local.home import AlreadyRunningError, Home
from infra.settings import Settings


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_its_owner_may_enter_the_data_directory_and_read_its_secrets(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    with home.lock():
        home.master_key()
    assert mode(home.path) == 0o700
    assert mode(home.path / "master.key") == 0o600


def test_the_environment_names_the_data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYWAY_HOME", str(tmp_path / "elsewhere"))
    assert Home().path == tmp_path / "elsewhere"


def test_the_master_key_is_one_that_the_settings_take_and_stays_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path)
    monkeypatch.setenv("KEYWAY_MASTER_KEYS", home.master_key())
    assert list(Settings.load().master_keys) == ["local"]
    assert Home(tmp_path).master_key() == home.master_key()


def test_a_second_stack_in_the_same_directory_is_told_who_has_it(tmp_path: Path) -> None:
    told = pytest.raises(
        AlreadyRunningError, match=rf"^already running \(pid {os.getpid()}\); see keyway status$"
    )
    with Home(tmp_path).lock(), told, Home(tmp_path).lock():
        pass


def test_the_lock_is_free_again_afterwards(tmp_path: Path) -> None:
    for _ in range(2):
        with Home(tmp_path).lock():
            pass


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = pytest.raises(StackError, match="file/home can't be used as data directory: Not a directory")
    with told, Home(tmp_path / "file" / "home").lock():
        pass


def test_ports_are_remembered_also_of_parts_that_do_not_run_this_time(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.remember_ports({"amqp": 1, "mongod": 2})
    home.remember_ports({"amqp": 3})
    assert home.remembered_ports() == {"amqp": 3, "mongod": 2}


def test_clearing_removes_our_data_and_nothing_else(tmp_path: Path) -> None:
    home = Home(tmp_path)
    (tmp_path / "thesis.txt").write_text("mine")
    with home.lock():
        home.rabbitmq.mkdir()
        old = home.master_key()
        home.clear()
    assert (tmp_path / "thesis.txt").exists()
    assert not home.rabbitmq.exists()
    assert home.master_key() != old
