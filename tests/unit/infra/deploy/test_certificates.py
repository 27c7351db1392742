"""Certificates of one's own authority: kept, renewed, and valid for their names only."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from infra.deploy.certificates import issue, main
from infra.errors import SettingsError


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def verify(folder: Path, name: str, *, authority: Path) -> None:
    """What a client does that connects to a name."""
    store = Store([read(authority / "ca.pem")])
    try:
        subject: x509.GeneralName = x509.IPAddress(ip_address(name))
    except ValueError:
        subject = x509.DNSName(name)
    verifier = PolicyBuilder().store(store).build_server_verifier(subject)  # type: ignore[arg-type]
    verifier.verify(read(folder / "server.pem"), [])


def test_a_certificate_is_valid_for_each_of_its_names_and_no_other(tmp_path: Path) -> None:
    issue(tmp_path, ["rabbitmq", "127.0.0.1"])
    verify(tmp_path, "rabbitmq", authority=tmp_path)
    verify(tmp_path, "127.0.0.1", authority=tmp_path)
    with pytest.raises(VerificationError):
        verify(tmp_path, "mongo", authority=tmp_path)


def test_a_second_run_renews_the_certificate_under_the_same_authority(tmp_path: Path) -> None:
    issue(tmp_path, ["rabbitmq"])
    authority, first = (tmp_path / "ca.pem").read_bytes(), read(tmp_path / "server.pem")
    issue(tmp_path, ["rabbitmq"])
    assert (tmp_path / "ca.pem").read_bytes() == authority
    assert read(tmp_path / "server.pem").serial_number != first.serial_number
    verify(tmp_path, "rabbitmq", authority=tmp_path)
    assert first.not_valid_after_utc > datetime.now(UTC) + timedelta(days=364)


def test_another_authority_is_not_trusted(tmp_path: Path) -> None:
    issue(tmp_path / "own", ["rabbitmq"])
    issue(tmp_path / "another", ["rabbitmq"])
    with pytest.raises(VerificationError):
        verify(tmp_path / "own", "rabbitmq", authority=tmp_path / "another")


def test_an_authority_without_its_key_issues_nothing(tmp_path: Path) -> None:
    issue(tmp_path / "own", ["rabbitmq"])
    issue(tmp_path / "another", ["rabbitmq"])
    (tmp_path / "another/ca.key").replace(tmp_path / "own/ca.key")
    with pytest.raises(SettingsError, match=r"ca\.key is not the key of ca\.pem"):
        issue(tmp_path / "own", ["rabbitmq"])
    (tmp_path / "own/ca.key").unlink()
    with pytest.raises(SettingsError, match="one can't be read"):
        issue(tmp_path / "own", ["rabbitmq"])


def test_without_a_name_it_says_how(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"usage: python -m infra\.deploy\.certificates FOLDER NAME"):
        main([str(tmp_path)])
