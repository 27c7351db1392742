"""The files of secrets that docker-compose.yml mounts: passwords, addresses with them, a master key.

    python -m infra.deploy.secret_files FOLDER [--tls]

What is there stays as it is, but for the addresses of the servers, which are written anew with the passwords.
With `--tls` they are those of docker-compose.tls.yml, and the servers' certificates are issued too.
"""

import base64
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from infra.deploy.certificates import SHARED_MODE, issue
from infra.errors import SettingsError

#: Names under which the servers' certificate is valid: those of compose, and this machine's.
NAMES = ("rabbitmq", "mongo", "localhost", "127.0.0.1")
#: Where a container finds its secrets.
MOUNTED = "/run/secrets"


def write(folder: Path, *, tls: bool) -> None:
    """Write what is missing, and every address.

    Args:
        folder: only its owner may enter it. The files in it can be read by whom a container runs as.
        tls: whether RabbitMQ and MongoDB are spoken to by TLS.

    Raises:
        SettingsError: the certificates' authority that is there can't be read.
        OSError: a file can't be written.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    broker = _kept(folder / "rabbitmq_password", _password)
    database = _kept(folder / "mongo_password", _password)
    _kept(folder / "mongo_root_password", _password)
    _kept(folder / "keyway_master_keys", lambda: f"main:{base64.b64encode(os.urandom(32)).decode()}")
    _kept(folder / "keyway_alert_urls", lambda: "")
    trusted = f"cafile={MOUNTED}/ca.pem"
    amqp, admin = (
        (
            f"amqps://keyway:{broker}@rabbitmq:5671/keyway?{trusted}",
            f"https://keyway:{broker}@rabbitmq:15671/?{trusted}",
        )
        if tls
        else (f"amqp://keyway:{broker}@rabbitmq:5672/keyway", f"http://keyway:{broker}@rabbitmq:15672")
    )
    mongo = f"mongodb://keyway:{database}@mongo:27017/?replicaSet=rs0&authSource=keyway"
    _write(folder / "keyway_amqp_url", amqp)
    _write(folder / "keyway_amqp_admin_url", admin)
    _write(folder / "keyway_mongo_url", f"{mongo}&tls=true&tlsCAFile={MOUNTED}/ca.pem" if tls else mongo)
    _write(folder / "rabbitmq_user.conf", f"default_user = keyway\ndefault_pass = {broker}")
    if tls:
        issue(folder, NAMES)


def _password() -> str:
    """Letters and digits only, since it stands inside addresses."""
    return secrets.token_hex(24)


def _kept(path: Path, make: Callable[[], str]) -> str:
    if not path.exists():
        _write(path, make())
    return path.read_text().strip()


def _write(path: Path, text: str) -> None:
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_text(f"{text}\n")
    new.chmod(SHARED_MODE)
    new.replace(path)


def main(arguments: Sequence[str]) -> None:
    """Write the files; without a folder, say how."""
    folders = [argument for argument in arguments if argument != "--tls"]
    if len(folders) != 1:
        sys.exit("usage: python -m infra.deploy.secret_files FOLDER [--tls]")
    try:
        write(Path(folders[0]), tls="--tls" in arguments)
    except (SettingsError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
