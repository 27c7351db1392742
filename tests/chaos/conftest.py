"""How much is harmed: `--chaos quick` (the default) shows each promise within seconds; `--chaos long` has the
figures of docs/reliability.md.
"""

from pathlib import Path

import pytest

from tests.chaos.report import Report

HERE = Path(__file__).parent
#: What a scenario may take in its long form, in seconds.
LONG_TIMEOUT_S = 1800


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("chaos") == "long":
        for item in items:
            if item.path.is_relative_to(HERE):
                item.add_marker(pytest.mark.timeout(LONG_TIMEOUT_S))


@pytest.fixture
def is_long(pytestconfig: pytest.Config) -> bool:
    """Whether this is the long form."""
    return bool(pytestconfig.getoption("chaos") == "long")


@pytest.fixture
def report(request: pytest.FixtureRequest, is_long: bool) -> Report:
    """Where a scenario tells its figures."""
    return Report(request.node.name, "long" if is_long else "quick")
