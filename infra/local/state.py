"""What runs on this machine now: written by the supervisor, read by `keyway status`, `down` and scripts."""

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.local.home import Home
from infra.local.leftovers import started_at
from infra.local.private_files import write_private

SUPERVISOR = "supervisor"


class StackState(BaseModel):
    """The running stack; its addresses hold passwords."""

    model_config = ConfigDict(frozen=True)

    ready: bool = False
    amqp_url: str | None = None
    amqp_admin_url: str | None = None
    mongo_url: str | None = None
    console_url: str | None = None
    #: Where each process of the services serves its metrics, by its name.
    metrics_urls: dict[str, str] = {}
    #: The provider's stand-in; its API lies below `/v1`.
    simulator_url: str | None = None
    #: By kind: generation, accounting, leasing, console, rabbitmq, mongod, simulator, supervisor.
    pids: dict[str, list[int]] = {}
    #: From `started_at`: tells the supervisor from a later process that has got its id.
    supervisor_started: int = 0
    #: Whether the master key is the data directory's own, rather than the environment's.
    own_master_key: bool = True


def write_state(home: Home, state: StackState) -> None:
    """Write it for others to read, mode 0600."""
    write_private(home.state_file, state.model_dump_json())


def running_state(home: Home) -> StackState | None:
    """The stack of this data directory; None when no supervisor lives."""
    try:
        state = StackState.model_validate_json(home.state_file.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return state if started_at(supervisor_pid(state)) == state.supervisor_started else None


def supervisor_pid(state: StackState) -> int:
    """The process that `keyway down` ends."""
    return state.pids[SUPERVISOR][0]


def environment_of(home: Home, state: StackState) -> dict[str, str]:
    """`KEYWAY_…` that lead to a stack: what is known of it, so without a master key that is not its own."""
    environment = {
        "KEYWAY_AMQP_URL": state.amqp_url,
        "KEYWAY_AMQP_ADMIN_URL": state.amqp_admin_url,
        "KEYWAY_MONGO_URL": state.mongo_url,
        "KEYWAY_MASTER_KEYS": home.master_key() if state.own_master_key else None,
    }
    return {name: value for name, value in environment.items() if value}


def running_environment() -> dict[str, str]:
    """What Keyway's settings are with the stack that runs here; empty when there is none."""
    home = Home()
    state = running_state(home)
    return environment_of(home, state) if state else {}
