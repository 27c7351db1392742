"""OpenTelemetry's variables: off without an endpoint; what is wrong stops the start with one line."""

import os

import pytest

from infra.errors import SettingsError
from infra.tracing_settings import TracingSettings


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


def load(monkeypatch: pytest.MonkeyPatch, **values: str) -> TracingSettings:
    for name, value in values.items():
        monkeypatch.setenv(f"OTEL_{name}", value)
    return TracingSettings.load()


ENDPOINT = {"EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"EXPORTER_OTLP_ENDPOINT": ""},
        {"TRACES_SAMPLER": "always_on", "SERVICE_NAME": "x"},
        {**ENDPOINT, "SDK_DISABLED": "true"},
        {**ENDPOINT, "TRACES_EXPORTER": "none"},
    ],
)
def test_there_are_no_traces(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    assert not load(monkeypatch, **values).is_on


@pytest.mark.parametrize(
    "values",
    [
        ENDPOINT,
        {"EXPORTER_OTLP_TRACES_ENDPOINT": "https://collector/v1/traces"},
        {**ENDPOINT, "TRACES_SAMPLER": "", "TRACES_SAMPLER_ARG": ""},
        {**ENDPOINT, "TRACES_SAMPLER": "parentbased_traceidratio", "TRACES_SAMPLER_ARG": "0.1"},
    ],
)
def test_there_are_traces(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    settings = load(monkeypatch, **values)
    assert settings.is_on
    assert not settings.instrumentation_genai_capture_message_content


@pytest.mark.parametrize(
    ("said", "captured"),
    [("true", True), ("True", True), ("span_only", True), ("false", False), ("NO_CONTENT", False)],
)
def test_prompts_are_captured_by_the_variable_of_other_instrumentations(
    monkeypatch: pytest.MonkeyPatch, said: str, captured: bool
) -> None:
    settings = load(monkeypatch, INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=said)
    assert settings.instrumentation_genai_capture_message_content is captured


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EXPORTER_OTLP_ENDPOINT", "collector:s3cr3t"),
        ("EXPORTER_OTLP_ENDPOINT", "grpc://user:s3cr3t@collector:4317"),
        ("EXPORTER_OTLP_TRACES_ENDPOINT", "http://[s3cr3t"),
        ("EXPORTER_OTLP_PROTOCOL", "grpc-s3cr3t"),
        ("EXPORTER_OTLP_TIMEOUT", "0"),
        ("TRACES_SAMPLER", "sometimes-s3cr3t"),
        ("TRACES_SAMPLER_ARG", "1.5"),
        ("BSP_MAX_QUEUE_SIZE", "0"),
        ("SDK_DISABLED", "s3cr3t"),
        ("INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "event_only"),
    ],
)
def test_a_wrong_value_is_named_in_one_line_without_the_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    with pytest.raises(SettingsError, match=f"^OTEL_{name}: ") as wrong:
        load(monkeypatch, **{name: value})
    assert "s3cr3t" not in str(wrong.value)
    assert "\n" not in str(wrong.value)


def test_what_may_be_secret_is_in_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(
        monkeypatch,
        EXPORTER_OTLP_ENDPOINT="http://user:s3cr3t@collector:4318",
        EXPORTER_OTLP_HEADERS="api-key=s3cr3t",
    )
    assert "s3cr3t" not in repr(settings)
