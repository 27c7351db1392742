import socket
import subprocess
import sys

import pytest

from infra.local.ports import ANY, choose_ports, claim, is_free

USUAL = {"amqp": 5672, "epmd": None}


def claimed(_: int) -> bool:
    """Whatever others on this machine have claimed."""
    return True


def test_the_ports_of_last_time_come_first() -> None:
    chosen = choose_ports(USUAL, {"amqp": 7001, "epmd": 7002}, lambda _: True, claimed)
    assert chosen == {"amqp": 7001, "epmd": 7002}


def test_the_customary_port_is_next_when_the_one_of_last_time_is_taken() -> None:
    chosen = choose_ports(USUAL, {"amqp": 7001}, lambda port: port != 7001, claimed)
    assert chosen["amqp"] == 5672


def test_any_free_port_serves_when_the_customary_one_is_taken() -> None:
    assert choose_ports(USUAL, {}, lambda port: port != 5672, claimed)["amqp"] in ANY


def test_no_port_is_given_twice() -> None:
    chosen = choose_ports({"a": 5672, "b": 5672, "c": None}, {"c": 5672}, lambda _: True, claimed)
    assert len(set(chosen.values())) == 3


def test_without_a_free_port_the_error_names_who_wanted_one() -> None:
    with pytest.raises(OSError, match="no free port for amqp"):
        choose_ports(USUAL, {}, lambda _: False)


def test_a_port_on_which_somebody_listens_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not is_free(port)
    assert is_free(port)


def test_a_port_that_lingers_after_its_server_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            # The side that closes first is the one that lingers.
            server.accept()[0].close()
    assert is_free(port)


def test_what_one_process_chose_no_other_is_given_until_it_ends() -> None:
    """Though nothing listens there yet."""
    (port,) = choose_ports({"amqp": None}, {}).values()
    asked = [sys.executable, "-c", f"from infra.local.ports import claim; print(claim({port}))"]
    other = subprocess.run(asked, check=True, capture_output=True, text=True)
    assert (is_free(port), other.stdout) == (True, "False\n")

    chosen_there = (
        "from infra.local.ports import ANY, choose_ports; print(choose_ports({'amqp': None}, {})['amqp'])"
    )
    ended = subprocess.run([sys.executable, "-c", chosen_there], check=True, capture_output=True, text=True)
    assert claim(int(ended.stdout))


def test_a_process_may_have_its_port_of_last_time_again() -> None:
    chosen = choose_ports({"amqp": None}, {})
    assert choose_ports({"amqp": None}, chosen) == chosen


def test_no_port_is_chosen_twice_by_one_process() -> None:
    (first,) = choose_ports({"amqp": None}, {}).values()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("random.sample", lambda *_: [first, first + 1])
        assert choose_ports({"amqp": None}, {}, lambda _: True, lambda _: True) == {"amqp": first + 1}
