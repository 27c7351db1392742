import os
import stat
import subprocess
from pathlib import Path

import pytest

from infra.local.home import Home
from infra.local.leftovers import started_at
from infra.local.state import StackState, running_environment, running_state, write_state


def state_of(pid: int, *, started: int | None = None, **fields: object) -> StackState:
    begun = started if started is not None else started_at(pid)
    return StackState.model_validate({"pids": {"supervisor": [pid]}, "supervisor_started": begun, **fields})


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("KEYWAY_HOME", str(tmp_path))
    return Home()


def test_what_the_supervisor_writes_is_what_others_read(home: Home) -> None:
    state = state_of(os.getpid(), ready=True, amqp_url="amqp://user:secret@host/keyway")
    write_state(home, state)
    assert running_state(home) == state


def test_the_file_with_the_passwords_is_its_owners_alone(home: Home) -> None:
    write_state(home, state_of(os.getpid()))
    assert stat.S_IMODE(home.state_file.stat().st_mode) == 0o600


def test_nothing_runs_where_nothing_was_written(home: Home) -> None:
    assert running_state(home) is None
    assert running_environment() == {}


def test_a_dead_supervisor_runs_nothing(home: Home) -> None:
    with subprocess.Popen(["/bin/true"]) as ended:
        pass
    write_state(home, state_of(ended.pid, started=1))
    assert running_state(home) is None


def test_another_process_with_the_supervisors_id_is_not_the_supervisor(home: Home) -> None:
    write_state(home, state_of(os.getpid(), started=1))
    assert running_state(home) is None


def test_commands_find_the_running_stack(home: Home) -> None:
    write_state(
        home, state_of(os.getpid(), amqp_url="amqp://a", amqp_admin_url="http://b", mongo_url="mongodb://c")
    )
    assert running_environment() == {
        "KEYWAY_AMQP_URL": "amqp://a",
        "KEYWAY_AMQP_ADMIN_URL": "http://b",
        "KEYWAY_MONGO_URL": "mongodb://c",
        "KEYWAY_MASTER_KEYS": home.master_key(),
    }


def test_a_stack_with_a_master_key_from_outside_gives_none_away(home: Home) -> None:
    home.master_key()
    write_state(home, state_of(os.getpid(), own_master_key=False))
    assert "KEYWAY_MASTER_KEYS" not in running_environment()
