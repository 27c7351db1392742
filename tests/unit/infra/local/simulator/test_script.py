"""The simulator's script: what it accepts, and what it leaves to chance."""

import statistics
from collections import Counter
from random import Random
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from infra.local.simulator.script import (
    KeyScript,
    LognormalLatency,
    Script,
    TokenRange,
    draw_completion_tokens,
    draw_fault,
    draw_latency_s,
)

SECRET = "sk-very-secret"


def key(**fields: Any) -> KeyScript:
    return KeyScript.model_validate({"name": "primary", "api_key": SECRET, **fields})


def test_faults_come_in_their_shares() -> None:
    script = key(error_rate=0.1, overloaded_rate=0.2, cut_stream_rate=0.3)
    random = Random(1)
    seen = Counter(draw_fault(script, random, stream=True) for _ in range(10_000))
    assert seen["server_error"] == pytest.approx(1000, rel=0.15)
    assert seen["overloaded"] == pytest.approx(2000, rel=0.1)
    assert seen["cut"] == pytest.approx(3000, rel=0.1)
    assert seen[None] == pytest.approx(4000, rel=0.1)


def test_a_call_that_is_no_stream_is_not_cut() -> None:
    assert draw_fault(key(cut_stream_rate=1), Random(1), stream=False) is None


def test_lognormal_latency_has_the_mean_that_was_asked_for() -> None:
    script = key(latency_ms={"mean": 200, "sigma": 0.5})
    random = Random(1)
    drawn = [draw_latency_s(script, random) for _ in range(20_000)]
    assert statistics.fmean(drawn) == pytest.approx(0.2, rel=0.05)
    assert max(drawn) > 0.6
    assert script.latency_ms == LognormalLatency(mean=200, sigma=0.5)


def test_completion_tokens_are_fixed_or_drawn_or_the_contents_own() -> None:
    random = Random(1)
    assert draw_completion_tokens(key(completion_tokens=7), random, 99) == 7
    assert draw_completion_tokens(key(), random, 99) == 99
    script = key(completion_tokens={"min": 3, "max": 5})
    assert script.completion_tokens == TokenRange(min=3, max=5)
    assert {draw_completion_tokens(script, random, 99) for _ in range(100)} == {3, 4, 5}


@pytest.mark.parametrize(
    "fields",
    [
        {"error_rate": 0.6, "drop_rate": 0.5},
        {"error_rate": 1.1},
        {"requests_per_minute": 0},
        {"latency_ms": -1},
        {"latency_ms": float("inf")},
        {"completion_tokens": {"min": 5, "max": 3}},
        {"name": "a/b"},
        {"unheard_of": 1},
    ],
)
def test_a_script_that_makes_no_sense_is_refused_without_its_secret(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        key(**fields)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "other", [{"name": "primary", "api_key": "sk-other"}, {"name": "other", "api_key": SECRET}]
)
def test_two_keys_share_neither_name_nor_secret(other: dict[str, str]) -> None:
    with pytest.raises(ValidationError) as caught:
        Script.model_validate({"keys": [{"name": "primary", "api_key": SECRET}, other]})
    assert SECRET not in str(caught.value)


def test_a_key_replaces_the_one_of_its_name() -> None:
    script = Script(keys=(key(), KeyScript(name="backup", api_key=SecretStr("sk-backup"))))
    changed = script.with_key(key(invalid=True))
    assert {one.name: one.invalid for one in changed.keys} == {"primary": True, "backup": False}


def test_no_script_shows_its_secret() -> None:
    script = Script(keys=(key(),))
    assert SECRET not in repr(script) + str(script) + script.model_dump_json()
