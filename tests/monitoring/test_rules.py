"""The configuration and rules for Prometheus, as its own promtool sees them."""

import re
import subprocess
from pathlib import Path

from tests.monitoring.programs import program

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "infra/deploy/prometheus"
RULES = (PROMETHEUS / "rules.yml").read_text()
UNIT_TESTS = Path(__file__).parent / "rules_test.yml"
ALERTS = re.findall(r"- alert: (\w+)", RULES)


def promtool(*arguments: str) -> None:
    done = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_the_configuration_and_the_rules() -> None:
    promtool("check", "config", "--lint=all", "--lint-fatal", str(PROMETHEUS / "prometheus.yml"))
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(PROMETHEUS / "rules.yml"))


def test_each_rule_fires_on_what_it_should_and_on_nothing_else() -> None:
    promtool("test", "rules", str(UNIT_TESTS))


def test_each_rule_has_such_a_test() -> None:
    assert len(ALERTS) > 12
    for alert in ALERTS:
        assert re.search(rf"alertname: {alert}\n +exp_alerts:\n", UNIT_TESTS.read_text()), alert


def test_metrics_that_rules_use_are_in_the_catalogue() -> None:
    catalogue = set(re.findall(r"`(\w+)`", (ROOT / "docs/metrics.md").read_text()))
    used = set(re.findall(r"keyway_\w+", RULES))
    assert len(used) > 10
    assert used <= catalogue
