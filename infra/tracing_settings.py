"""Settings of traces: OpenTelemetry's own variables, as far as Keyway heeds them, checked at the start."""

from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from infra.settings import EnvironmentSettings

#: Other spellings of the same, by OpenTelemetry's instrumentations of other libraries.
CONTENT_IN_SPANS = {"span_only": True, "no_content": False}


class TracingSettings(EnvironmentSettings):
    """What is traced and where to; off unless an endpoint is set."""

    model_config = SettingsConfigDict(env_prefix="OTEL_", env_ignore_empty=True)

    exporter_otlp_endpoint: SecretStr | None = Field(
        default=None,
        description="Address of a collector that takes OTLP over HTTP, `http://host:4318`; without one there "
        "are no traces.",
    )
    exporter_otlp_traces_endpoint: SecretStr | None = Field(
        default=None, description="The same for traces alone, with the path, `http://host:4318/v1/traces`."
    )
    exporter_otlp_protocol: Literal["http/protobuf"] = Field(
        default="http/protobuf", description="How spans are sent; there is no other way."
    )
    exporter_otlp_traces_protocol: Literal["http/protobuf"] = Field(
        default="http/protobuf", description="The same for traces alone."
    )
    exporter_otlp_headers: SecretStr | None = Field(
        default=None, description="Headers for the collector, `name=value,…`, as it wants for authentication."
    )
    exporter_otlp_timeout: float = Field(
        default=10, gt=0, description="How long a batch of spans is tried before it is dropped, in seconds."
    )
    exporter_otlp_compression: Literal["none", "gzip", "deflate"] = Field(
        default="none", description="How batches are compressed."
    )
    service_name: str | None = Field(
        default=None, description="Name of the service in traces; by default keyway-generation, and so on."
    )
    resource_attributes: str | None = Field(
        default=None, description="More of what each span tells of its service, `name=value,…`."
    )
    traces_sampler: Literal[
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ] = Field(
        default="parentbased_always_on",
        description="Which traces are kept; `parentbased_…`: as the automation decided, where it did.",
    )
    traces_sampler_arg: float = Field(
        default=1.0, ge=0, le=1, description="Share of the traces that `…traceidratio` keeps, 0 to 1."
    )
    bsp_max_queue_size: int = Field(
        default=2048, ge=1, description="Spans that wait for the collector at a time; more are dropped."
    )
    traces_exporter: Literal["otlp", "none"] = Field(
        default="otlp", description="`none` switches traces off, whatever the endpoint."
    )
    sdk_disabled: bool = Field(
        default=False, description="`true` switches traces off, whatever the endpoint."
    )
    instrumentation_genai_capture_message_content: bool = Field(
        default=False, description="`true`: prompts and answers stand in the spans of provider calls."
    )

    @property
    def is_on(self) -> bool:
        """Whether spans are exported."""
        has_endpoint = self.exporter_otlp_endpoint or self.exporter_otlp_traces_endpoint
        return has_endpoint is not None and self.traces_exporter == "otlp" and not self.sdk_disabled

    @field_validator("exporter_otlp_endpoint", "exporter_otlp_traces_endpoint")
    @classmethod
    def _is_http(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        try:
            where = urlsplit(value.get_secret_value())
            is_address = where.scheme in {"http", "https"} and bool(where.hostname)
        except ValueError:
            is_address = False
        if not is_address:
            raise ValueError("expected an address that begins with http:// or https://")
        return value

    @field_validator("instrumentation_genai_capture_message_content", mode="before")
    @classmethod
    def _in_spans(cls, value: Any) -> Any:
        return CONTENT_IN_SPANS.get(value.lower(), value) if isinstance(value, str) else value
