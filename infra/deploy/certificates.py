"""Certificates for RabbitMQ and MongoDB, from an authority of one's own.

    python -m infra.deploy.certificates FOLDER NAME …

The authority is made once and kept; the server's certificate is issued anew by each run, which renews it.
`ca.pem` goes to who connects, `server.pem` and `server.key` to the servers, and `ca.key` to a safe.
"""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from infra.errors import SettingsError

#: How long the authority is valid; who connects has to be given its next one before.
AUTHORITY_LIFE = timedelta(days=3650)
#: How long a server's certificate is valid.
SERVER_LIFE = timedelta(days=365)
#: A certificate counts from a little earlier, for clocks that are behind.
CLOCK_SKEW = timedelta(minutes=5)
#: Containers read a file as users of their own; the folder keeps everybody else out.
SHARED_MODE = 0o444


def issue(folder: Path, names: Sequence[str]) -> None:
    """Make the authority, if there is none, and a server's certificate.

    Args:
        folder: where `ca.pem`, `ca.key`, `server.pem`, `server.key` and `server-with-key.pem` (both, for
            MongoDB) are written; only its owner may enter it.
        names: under which the servers are connected to: DNS names, or IP addresses.

    Raises:
        SettingsError: the authority that is there can't be read.
        OSError: a file can't be written.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority, authority_key = _authority(folder)
    key = generate_private_key(SECP256R1())
    certificate = (
        _begin(names[0], authority.subject, key, SERVER_LIFE)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        )
        .sign(authority_key, SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM)
    _write(folder / "server.pem", pem, SHARED_MODE)
    _write(folder / "server.key", _pem(key), SHARED_MODE)
    _write(folder / "server-with-key.pem", pem + _pem(key), SHARED_MODE)


def _authority(folder: Path) -> tuple[x509.Certificate, EllipticCurvePrivateKey]:
    certificate_file, key_file = folder / "ca.pem", folder / "ca.key"
    if certificate_file.exists():
        try:
            key = load_pem_private_key(key_file.read_bytes(), None)
            certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        except (OSError, ValueError):
            raise SettingsError(f"{folder}: ca.pem and ca.key belong together; one can't be read") from None
        if not isinstance(key, EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise SettingsError(f"{folder}: ca.key is not the key of ca.pem")
        return certificate, key
    key = generate_private_key(SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Keyway's own authority")])
    usage = x509.KeyUsage(
        key_cert_sign=True,
        crl_sign=True,
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _begin("Keyway's own authority", name, key, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA256())
    )
    _write(key_file, _pem(key), 0o400)
    _write(certificate_file, certificate.public_bytes(Encoding.PEM), SHARED_MODE)
    return certificate, key


def _begin(
    name: str, issuer: x509.Name, key: EllipticCurvePrivateKey, life: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + life)
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(key: EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replace a file as a whole, so that a run that is stopped leaves the old one or the new one."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_bytes(content)
    new.chmod(mode)
    new.replace(path)


def main(arguments: Sequence[str]) -> None:
    """Issue a certificate; without a folder and a name, say how."""
    if len(arguments) < 2:
        sys.exit("usage: python -m infra.deploy.certificates FOLDER NAME …")
    folder, *names = arguments
    try:
        issue(Path(folder), names)
    except (SettingsError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
