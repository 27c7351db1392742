"""Settings: what is right is taken, and what is wrong stops the start with one line without the value."""

import base64
import os
from pathlib import Path

import pytest

from infra.errors import SettingsError
from infra.settings import Settings

KEY_1 = base64.b64encode(bytes(range(32))).decode()
KEY_2 = base64.b64encode(bytes(range(32, 64))).decode()


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("KEYWAY_"):
            monkeypatch.delenv(name)


def load(monkeypatch: pytest.MonkeyPatch, **values: str) -> Settings:
    for name, value in values.items():
        monkeypatch.setenv(f"KEYWAY_{name}", value)
    return Settings.load()


def test_without_an_environment_every_setting_has_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch)
    assert settings.mongo_database == "keyway"
    assert settings.master_keys == {}
    assert settings.lanes == frozenset()
    assert settings.result_ttl_s == 3600


def test_settings_come_from_variables_that_begin_with_keyway(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, AMQP_URL="amqps://bot:token@broker/v", MAX_IN_FLIGHT="7", GRACE_S="2.5")
    assert settings.amqp_url.get_secret_value() == "amqps://bot:token@broker/v"
    assert (settings.max_in_flight, settings.grace_s) == (7, 2.5)


def test_a_variable_that_is_no_setting_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, SOMETHING_ELSE="x") is not None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AMQP_URL", "guest:s3cr3t@localhost"),
        ("AMQP_URL", "ftp://guest:s3cr3t@localhost"),
        ("AMQP_URL", "amqp://guest:s3cr3t@[localhost"),
        ("AMQP_URL", "amqp://guest:s3cr3t\u2100@host/v"),
        ("AMQP_URL", "http://guest:s3cr3t@localhost"),
        ("AMQP_URL", "mongodb://guest:s3cr3t@localhost"),
        ("AMQP_ADMIN_URL", "amqp://guest:s3cr3t@localhost"),
        ("AMQP_ADMIN_URL", "s3cr3t"),
        ("AMQP_URL", "amqps://bot:s3cr3t@h/v?cafile=/nowhere/ca.pem"),
        ("MONGO_URL", "http://guest:s3cr3t@localhost"),
        ("MONGO_URL", "postgresql://s3cr3t"),
        ("MONGO_URL", ""),
        ("MONGO_DATABASE", "key way"),
        ("MONGO_DATABASE", "d" * 64),
        ("MAX_IN_FLIGHT", "many"),
        ("MAX_IN_FLIGHT", "0"),
        ("MAX_IN_FLIGHT", "100001"),
        ("LANE_PREFETCH", "2.5"),
        ("LANE_PREFETCH", "0"),
        ("LANE_PREFETCH", "10001"),
        ("LANE_MAX_LENGTH", "0"),
        ("MAX_BODY_BYTES", "1023"),
        ("RESULT_TTL_S", "59"),
        ("GRACE_S", "soon"),
        ("GRACE_S", "0.9"),
        ("DELIVERY_LIMIT", "0"),
        ("LOG_FORMAT", "yaml"),
        ("LOG_LEVEL", "loud"),
        ("MASTER_KEYS", KEY_1),
        ("MASTER_KEYS", f":{KEY_1}"),
        ("MASTER_KEYS", f"m1:{KEY_1[:-4]}"),
        ("MASTER_KEYS", f"m1:{KEY_1}{KEY_1}"),
        ("MASTER_KEYS", f"m1:{KEY_1} m2:{KEY_2}"),
        ("MASTER_KEYS", f"m1:{KEY_1},m1:{KEY_2}"),
        ("MASTER_KEYS", "m1:not base64 at all"),
        ("MASTER_KEYS", "m1:schlüssel"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_setting_and_not_the_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    with pytest.raises(SettingsError) as raised:
        load(monkeypatch, **{name: value})
    line = str(raised.value)
    assert line.startswith(f"KEYWAY_{name}: ")
    assert len(line) > len(f"KEYWAY_{name}: ")
    assert "\n" not in line
    assert "s3cr3t" not in line
    assert KEY_1 not in line
    assert not value or value not in line
    assert raised.value.__cause__ is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_IN_FLIGHT", "1"),
        ("MAX_IN_FLIGHT", "100000"),
        ("LANE_PREFETCH", "1"),
        ("LANE_PREFETCH", "10000"),
        ("LANE_MAX_LENGTH", "1"),
        ("MAX_BODY_BYTES", "1024"),
        ("RESULT_TTL_S", "60"),
        ("GRACE_S", "1"),
        ("DELIVERY_LIMIT", "1"),
        ("MONGO_DATABASE", "d" * 63),
    ],
)
def test_a_bound_itself_is_within_it(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    assert str(getattr(load(monkeypatch, **{name: value}), name.lower())).removesuffix(".0") == value


def test_an_address_may_be_any_that_the_services_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(
        monkeypatch,
        AMQP_URL="amqps://h/v",
        AMQP_ADMIN_URL="https://h:15671",
        MONGO_URL="mongodb+srv://cluster.test/?x=1",
    )
    assert settings.mongo_url.get_secret_value() == "mongodb+srv://cluster.test/?x=1"


def test_what_the_environment_does_not_say_is_read_from_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "keyway_master_keys").write_text(f"m1:{KEY_1}\n")
    (tmp_path / "keyway_amqp_url").write_text("amqp://of:a-file@h/v")
    (tmp_path / "rabbitmq_password").write_text("of nobody's")
    settings = load(monkeypatch, SECRETS_DIR=str(tmp_path), AMQP_URL="amqp://of:the-environment@h/v")
    assert {name: key.get_secret_value() for name, key in settings.master_keys.items()} == {"m1": KEY_1}
    assert settings.amqp_url.get_secret_value() == "amqp://of:the-environment@h/v"


def test_a_wrong_value_in_a_file_is_named_like_one_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "keyway_master_keys").write_text("m1:s3cr3t")
    with pytest.raises(SettingsError, match="KEYWAY_MASTER_KEYS: expected") as raised:
        load(monkeypatch, SECRETS_DIR=str(tmp_path))
    assert "s3cr3t" not in str(raised.value)


def test_a_folder_of_secrets_that_is_not_there_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="KEYWAY_SECRETS_DIR: there is no folder /nowhere"):
        load(monkeypatch, SECRETS_DIR="/nowhere")


@pytest.mark.parametrize("text", [f"m1:{KEY_1},m2:{KEY_2}", f" m1:{KEY_1} ,\n m2:{KEY_2},"])
def test_master_keys_are_read_in_their_order(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    keys = load(monkeypatch, MASTER_KEYS=text).master_keys
    assert [(name, key.get_secret_value()) for name, key in keys.items()] == [("m1", KEY_1), ("m2", KEY_2)]


@pytest.mark.parametrize(
    ("text", "lanes"),
    [("", set()), ("a", {"a"}), ("a,b", {"a", "b"}), (" a , b ,,", {"a", "b"})],
)
def test_lanes_are_a_list_with_commas(monkeypatch: pytest.MonkeyPatch, text: str, lanes: set[str]) -> None:
    assert load(monkeypatch, LANES=text).lanes == lanes


@pytest.mark.parametrize("lane", ["Billing Bot", "billing.bot", "-bot", "b" * 64])
def test_a_lane_that_can_be_no_automations_is_named(monkeypatch: pytest.MonkeyPatch, lane: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load(monkeypatch, LANES=f"a,{lane}")
    assert str(raised.value) == f"KEYWAY_LANES: {lane!r} is not an automation's id"


def test_no_secret_is_in_the_settings_text(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(
        monkeypatch,
        AMQP_URL="amqp://bot:s3cr3t@h/v",
        AMQP_ADMIN_URL="http://admin:s3cr3t@h",
        MONGO_URL="mongodb://u:s3cr3t@h",
        MASTER_KEYS=f"m1:{KEY_1}",
    )
    for text in (repr(settings), str(settings), settings.model_dump_json()):
        assert "s3cr3t" not in text
        assert KEY_1 not in text


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_two_processes_have_two_worker_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch).worker_id != load(monkeypatch).worker_id
