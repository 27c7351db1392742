"""A container's health: RabbitMQ sees its service, and it consumes."""

from typing import Any

import pytest

from infra.deploy.healthcheck import CONNECTIONS, check, consumes


class _Management:
    """RabbitMQ's answers: connections by their names, each with the consumers of its channels."""

    def __init__(self, connections: dict[str, list[int]]) -> None:
        self._connections = connections

    async def call(self, method: str, path: str) -> list[dict[str, Any]]:
        assert method == "GET"
        if path == CONNECTIONS:
            named = [{"name": f"at {name}", "user_provided_name": name} for name in self._connections]
            return [*named, {"name": "of somebody without a name"}]
        name = path.removeprefix("connections/at%20").removesuffix("/channels").replace("%20", " ")
        return [{"consumer_count": count} for count in self._connections[name]]


@pytest.mark.parametrize(
    ("connections", "healthy"),
    [
        ({"keyway generation box-7-ab": [0, 3]}, True),
        ({"keyway generation box-7-ab": [0, 0]}, False),
        ({"keyway generation box-7-ab": []}, False),
        ({"keyway generation box2-7-ab": [3]}, False),
        ({"keyway accounting box-7-ab": [3]}, False),
        ({}, False),
    ],
)
async def test_a_service_is_healthy_when_its_own_connection_consumes(
    connections: dict[str, list[int]], *, healthy: bool
) -> None:
    assert await consumes(_Management(connections), "generation", "box") is healthy  # type: ignore[arg-type]


async def test_a_broker_that_is_away_is_no_health_and_no_reason_to_be_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KEYWAY_AMQP_ADMIN_URL", "http://nobody:nothing@127.0.0.1:9")
    assert "no management API at 127.0.0.1:9" in str(await check("generation"))
    assert await check("generation", broker_may_be_away=True) is None
