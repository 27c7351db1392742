"""Which colour a status, an outcome or a state has; its text always stands beside."""

from workers.console.pages.grid import chip

KEY_TONES = {"active": "good", "exhausted": "warn", "error": "bad", "disabled": "idle"}
REQUEST_TONES = {"succeeded": "good", "running": "info", "failed": "bad"}
OUTCOME_TONES = {"ok": "good", "rate_limited": "warn", "quota_exhausted": "warn", "cancelled": "idle"}


def severity_chip(severity: str) -> dict[str, str]:
    """How soon a person should look."""
    return chip(severity, "bad" if severity == "critical" else "warn")


def outcome_chip(outcome: str) -> dict[str, str]:
    """How an attempt ended."""
    return chip(outcome.replace("_", " "), OUTCOME_TONES.get(outcome, "bad"))


def lane_chip(*, enabled: bool, paused: bool, consumers: int) -> dict[str, str]:
    """Whether a lane is served."""
    if not enabled:
        return chip("disabled", "idle")
    if paused:
        return chip("paused", "warn")
    return chip("open", "good") if consumers else chip("no worker", "bad")
