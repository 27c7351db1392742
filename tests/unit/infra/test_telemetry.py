"""Log lines: what concerns a request bears its ids and those of its trace, in both formats."""

import json
import logging
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
import structlog

from infra.errors import SettingsError
from infra.settings import Settings
from infra.telemetry import configure_logging, configure_tracing

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@dataclass(frozen=True)
class Asked:
    request_id: str = "r-1"
    automation_id: str = "bot"
    trace: dict[str, str] | None = None


TRACED = Asked(trace={"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01", "tracestate": "vendor=1"})


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def logged(capsys: pytest.CaptureFixture[str], log_format: str, about: Asked | None) -> str:
    settings = Settings.model_validate({"log_format": log_format, "worker_id": "w-1"})
    configure_logging(settings, "generation")
    structlog.get_logger().info("request_finished", about=about, status="succeeded")
    return capsys.readouterr().err


def test_a_json_line_bears_the_ids_of_its_request_and_trace(capsys: pytest.CaptureFixture[str]) -> None:
    line = json.loads(logged(capsys, "json", TRACED))
    assert line.pop("timestamp")
    assert line == {
        "event": "request_finished",
        "level": "info",
        "service": "generation",
        "worker": "w-1",
        "status": "succeeded",
        "request_id": "r-1",
        "automation_id": "bot",
        "trace_id": TRACE_ID,
        "span_id": SPAN_ID,
    }


def test_a_line_for_the_terminal_bears_them_too(capsys: pytest.CaptureFixture[str]) -> None:
    line = logged(capsys, "console", TRACED)
    for field in ("request_finished", "request_id", "r-1", "automation_id", "bot", TRACE_ID, SPAN_ID):
        assert field in line
    assert "tracestate" not in line


@pytest.mark.parametrize(
    "trace", [None, {"tracestate": "vendor=1"}, {"traceparent": "nonsense"}, {"traceparent": "00-1-2-01"}]
)
def test_without_a_trace_there_are_only_the_requests_ids(
    capsys: pytest.CaptureFixture[str], trace: dict[str, str] | None
) -> None:
    line = json.loads(logged(capsys, "json", Asked(trace=trace)))
    assert (line["request_id"], line["automation_id"]) == ("r-1", "bot")
    assert not {"trace_id", "span_id", "about"} & line.keys()


def test_a_line_about_no_request_is_left_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert not {"request_id", "trace_id", "about"} & json.loads(logged(capsys, "json", None)).keys()


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_BSP_MAX_QUEUE_SIZE", "100"), ("OTEL_ATTRIBUTE_COUNT_LIMIT", "many")],
)
async def test_a_variable_that_opentelemetry_refuses_stops_the_start_with_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv(name, value)
    async with AsyncExitStack() as stack:
        with pytest.raises(SettingsError, match=r"^OpenTelemetry refuses") as wrong:
            configure_tracing(Settings(), "generation", stack)
    assert "\n" not in str(wrong.value)
