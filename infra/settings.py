"""Every setting of Keyway's services, read from the environment (`KEYWAY_…`), checked once at the start."""

import base64
import binascii
import os
import secrets
import socket
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from contracts.message_size import DEFAULT_LIMIT_BYTES
from contracts.names import is_automation_id
from infra.errors import SettingsError

MASTER_KEY_BYTES = 32
SCHEMES = {
    "amqp_url": ("amqp", "amqps"),
    "amqp_admin_url": ("http", "https"),
    "mongo_url": ("mongodb", "mongodb+srv"),
}


class EnvironmentSettings(BaseSettings):
    """Settings from the environment; read them with `load()`, which turns a wrong value into one line."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    @classmethod
    def load(cls) -> Self:
        """Read the environment.

        Returns:
            The settings.

        Raises:
            SettingsError: one line that names the first wrong setting and says why; the value is not in it.
        """
        return cls._read(None)

    @classmethod
    def _read(cls, secrets_dir: str | None) -> Self:
        try:
            return cls(_secrets_dir=secrets_dir)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            name = "_".join(str(part) for part in first["loc"]).upper()
            reason = first["msg"].removeprefix("Value error, ")
            raise SettingsError(f"{cls.model_config['env_prefix']}{name}: {reason}") from None


class Settings(EnvironmentSettings):
    """Settings of one service; `keyway settings` prints this table."""

    model_config = SettingsConfigDict(env_prefix="KEYWAY_")

    amqp_url: SecretStr = Field(
        default=SecretStr("amqp://guest:guest@localhost:5672/keyway"),
        description="AMQP address of RabbitMQ with user, password and vhost.",
    )
    amqp_admin_url: SecretStr = Field(
        default=SecretStr("http://guest:guest@localhost:15672"),
        description="Address of RabbitMQ's management API, with an administrator's user and password.",
    )
    mongo_url: SecretStr = Field(
        default=SecretStr("mongodb://localhost:27017/?replicaSet=rs0"),
        description="MongoDB connection string; it must be a replica set, since transactions need one.",
    )
    mongo_database: str = Field(
        default="keyway", pattern=r"^[a-zA-Z0-9_-]{1,63}$", description="Name of the database."
    )
    master_keys: Annotated[dict[str, SecretStr], NoDecode] = Field(
        default_factory=dict,
        description="Master keys as `id:base64,…`, 32 bytes each; the first encrypts, all decrypt.",
    )
    worker_id: str = Field(
        default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}",
        description="Name of this process in the journal and in the list of workers; never used twice.",
    )
    lanes: Annotated[frozenset[str], NoDecode] = Field(
        default=frozenset(), description="Automations that this worker serves, `a,b,…`; empty: all."
    )
    max_in_flight: int = Field(
        default=1000, ge=1, le=100_000, description="Provider calls in flight in one worker process."
    )
    lane_prefetch: int = Field(
        default=100,
        ge=1,
        le=10_000,
        description="Requests of one automation that one worker holds at a time.",
    )
    proxy_from_environment: bool = Field(
        default=False,
        description="Whether calls to providers go through the proxy that `HTTPS_PROXY` or `HTTP_PROXY` "
        "names, unless `NO_PROXY` has the provider.",
    )
    max_body_bytes: int = Field(
        default=4 * 1024 * 1024, ge=1024, description="Largest request body that is accepted, in bytes."
    )
    max_message_bytes: int = Field(
        default=DEFAULT_LIMIT_BYTES,
        ge=64 * 1024,
        description="Largest message that RabbitMQ takes (its `max_message_size`), in bytes; a larger answer "
        "is reported as failed.",
    )
    lane_max_length: int = Field(
        default=1_000_000,
        ge=1,
        description="Requests that one lane's queue holds; past it a publish is refused.",
    )
    queue_max_bytes: int = Field(
        default=4 * 1024**3,
        ge=1024 * 1024,
        description="Bytes that one lane's queue or one reply queue holds; past them a lane refuses, and a "
        "reply queue drops its oldest message. `keyway init` sets it for the queues that are there, too.",
    )
    delivery_limit: int = Field(
        default=10_000,
        ge=1,
        description="Deliveries of one request after which RabbitMQ dead-letters it; each pause of its lane "
        "counts as one, so it is no measure of crashes.",
    )
    crash_limit: int = Field(
        default=5,
        ge=1,
        description="Workers that may die of one request before it is answered `internal` and dead-lettered.",
    )
    result_ttl_s: int = Field(
        default=3600, ge=60, description="Seconds for which a result is kept, encrypted, to answer a repeat."
    )
    grace_s: float = Field(
        default=25.0, ge=1, description="Seconds that a stopping service gives to what it has in flight."
    )
    console_host: str = Field(
        default="127.0.0.1", description="Address that the console listens on; by default this machine only."
    )
    console_port: int = Field(default=8080, ge=0, le=65_535, description="Its port; 0: any that is free.")
    console_secure_cookies: bool = Field(
        default=False, description="Whether browsers reach the console by HTTPS, and send its cookie so only."
    )
    metrics_host: str = Field(
        default="127.0.0.1", description="Address that metrics are served on; by default this machine only."
    )
    metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65_535,
        description="Port of `/metrics` for Prometheus; 0: any that is free; not set: no metrics are kept.",
    )
    alert_urls: SecretStr = Field(
        default=SecretStr(""),
        description="Whom alerts are delivered to: addresses of `apprise`, such as `slack://…` or "
        "`mailtos://…`, with commas or spaces between them.",
    )
    alert_every_s: float = Field(
        default=15.0, ge=0.1, le=300, description="Seconds between looks for what no event tells of."
    )
    alert_lane_age_s: float = Field(
        default=300.0,
        gt=0,
        description="An alert when the oldest request of a lane waits for so many seconds.",
    )
    alert_dead_letters: int = Field(
        default=1, ge=1, description="An alert when there are so many dead letters."
    )
    alert_silence_s: float = Field(
        default=300.0,
        gt=0,
        description="An alert when an automation that sent heartbeats has sent none for so many seconds.",
    )
    alert_ledger_lag_s: float = Field(
        default=60.0, gt=0, description="An alert when an event waits for accounting for so many seconds."
    )
    secrets_dir: str = Field(
        default="",
        description="Folder of files named like settings, such as `keyway_master_keys`; each counts where "
        "the environment does not have its setting.",
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="`json`, `console`, or `auto`: console on a terminal, else json."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log event that is written."
    )

    @field_validator("amqp_url", "amqp_admin_url", "mongo_url")
    @classmethod
    def _has_scheme(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        allowed = SCHEMES[info.field_name or ""]
        try:
            parts = urlsplit(value.get_secret_value())
        except ValueError:
            # Its own text repeats the address, and with it the password.
            raise ValueError("not an address") from None
        if parts.scheme not in allowed:
            raise ValueError(
                f"expected an address that begins with {' or '.join(f'{s}://' for s in allowed)}"
            )
        for certificates in parse_qs(parts.query).get("cafile", []):
            # The driver would take it for a broker that is away.
            if not Path(certificates).is_file():
                raise ValueError(f"there is no file {certificates}, which cafile names")
        return value

    @field_validator("master_keys", mode="before")
    @classmethod
    def _parse_master_keys(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        keys: dict[str, SecretStr] = {}
        for entry in filter(None, (part.strip() for part in value.split(","))):
            key_id, separator, encoded = entry.partition(":")
            try:
                raw = base64.b64decode(encoded, validate=True)
            except binascii.Error:
                raw = b""
            if not separator or not key_id or len(raw) != MASTER_KEY_BYTES:
                raise ValueError(
                    "expected `id:base64,…` with 32 bytes each; make one with `openssl rand -base64 32`"
                )
            if key_id in keys:
                raise ValueError(f"the id {key_id!r} is there twice")
            keys[key_id] = SecretStr(encoded)
        return keys

    @field_validator("lanes", mode="before")
    @classmethod
    def _parse_lanes(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        lanes = frozenset(filter(None, (part.strip() for part in value.split(","))))
        if wrong := sorted(lane for lane in lanes if not is_automation_id(lane)):
            raise ValueError(f"{wrong[0]!r} is not an automation's id")
        return lanes

    @classmethod
    def load(cls) -> Self:
        """Read the environment, and the files of the folder that `KEYWAY_SECRETS_DIR` names.

        Returns:
            The settings.

        Raises:
            SettingsError: one line that names the first wrong setting and says why; the value is not in it.
        """
        folder = os.environ.get("KEYWAY_SECRETS_DIR", "")
        if folder and not Path(folder).is_dir():
            raise SettingsError(f"KEYWAY_SECRETS_DIR: there is no folder {folder}")
        try:
            return cls._read(folder or None)
        except OSError as error:
            raise SettingsError(f"KEYWAY_SECRETS_DIR: {error.filename}: {error.strerror}") from None
