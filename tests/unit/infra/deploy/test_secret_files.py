"""The files of secrets: made once, kept, and closed to others."""

import stat
from pathlib import Path

import pytest

from infra.deploy import secret_files
from infra.settings import Settings


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_what_is_written_are_settings_that_services_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret_files.write(tmp_path, tls=False)
    for name in ("KEYWAY_AMQP_URL", "KEYWAY_AMQP_ADMIN_URL", "KEYWAY_MONGO_URL", "KEYWAY_MASTER_KEYS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KEYWAY_SECRETS_DIR", str(tmp_path))
    settings = Settings.load()
    password = (tmp_path / "rabbitmq_password").read_text().strip()
    assert settings.amqp_url.get_secret_value() == f"amqp://keyway:{password}@rabbitmq:5672/keyway"
    assert (tmp_path / "rabbitmq_user.conf").read_text().splitlines()[1] == f"default_pass = {password}"
    assert list(settings.master_keys) == ["main"]
    assert settings.alert_urls.get_secret_value() == ""


def test_a_second_run_keeps_every_password_and_master_key(tmp_path: Path) -> None:
    secret_files.write(tmp_path, tls=False)
    first = contents(tmp_path)
    secret_files.write(tmp_path, tls=False)
    assert contents(tmp_path) == first


def test_tls_changes_the_addresses_and_no_password(tmp_path: Path) -> None:
    secret_files.write(tmp_path, tls=False)
    before = contents(tmp_path)
    secret_files.write(tmp_path, tls=True)
    after = contents(tmp_path)
    changed = {name for name, text in before.items() if after[name] != text}
    assert changed == {"keyway_amqp_url", "keyway_amqp_admin_url", "keyway_mongo_url"}
    assert after["keyway_amqp_url"].startswith("amqps://")
    assert after["keyway_amqp_admin_url"].startswith("https://")
    assert "tls=true&tlsCAFile=/run/secrets/ca.pem" in after["keyway_mongo_url"]


def test_only_the_owner_enters_the_folder(tmp_path: Path) -> None:
    """In it, files are readable, since compose mounts them with their modes, for other users."""
    secret_files.write(tmp_path / "secrets", tls=True)
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "secrets/ca.key").stat().st_mode) == 0o400


def test_without_a_folder_it_says_how() -> None:
    with pytest.raises(SystemExit, match=r"usage: python -m infra\.deploy\.secret_files FOLDER"):
        secret_files.main(["--tls"])
