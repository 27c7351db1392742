"""Whom alerts are delivered to: the addresses of `KEYWAY_ALERT_URLS`, through `apprise`.

Addresses contain tokens. Nothing here, and nothing that `apprise` says, shows more of one than its scheme and
its host, and the host only where that is one.
"""

import logging
import re
from collections import Counter
from typing import TYPE_CHECKING, Literal, TypeAlias

from pydantic import SecretStr

from infra.errors import SettingsError

if TYPE_CHECKING:
    from apprise import Apprise, NotifyBase

#: How a message looks at its target, which may colour it.
Tone: TypeAlias = Literal["info", "warning", "failure", "success"]

#: Seconds for which one target may take for one message.
SEND_TIMEOUT_S = 30.0
#: Between two addresses: a comma may be a part of one.
BETWEEN = re.compile(r"[\s,]+(?=[A-Za-z][A-Za-z0-9+.-]*://)")
HTTP_STATUS = re.compile(r"\berror=(\d{3})\b")
#: Libraries whose log lines contain addresses with their tokens.
INDISCREET_LIBRARIES = ("apprise", "urllib3", "requests_oauthlib")


class Target:
    """One address that messages are sent to."""

    def __init__(self, name: str, service: "Apprise") -> None:
        """Take its name, which is no secret, and what sends to it."""
        self.name = name
        self._service = service

    async def send(self, title: str, body: str, tone: Tone) -> str | None:
        """Send a message.

        Returns:
            Why it failed, in a few words without secrets; None: the target has it.
        """
        result = await self._service.async_notify(
            title=title, body=body, notify_type=tone, body_format="text"
        )
        if result:
            return None
        if result.status.name == "TIMEOUT":
            return f"no answer within {SEND_TIMEOUT_S:g} s"
        said = " ".join(entry.message for service in result for attempt in service for entry in attempt.logs)
        found = HTTP_STATUS.search(said)
        return f"it answers {found[1]}" if found else "it refuses, or can't be reached"


def alert_targets(urls: SecretStr) -> list[Target]:
    """The targets that a setting names.

    Args:
        urls: `apprise` addresses, with commas or spaces between them.

    Returns:
        A target for each address, in their order.

    Raises:
        SettingsError: one of them is not an address that `apprise` knows; it is not repeated, only counted.
    """
    text = urls.get_secret_value().strip().strip(",")
    if not text:
        return []
    for library in INDISCREET_LIBRARIES:
        logging.getLogger(library).propagate = False
        logging.getLogger(library).addHandler(logging.NullHandler())
    # It takes a fifth of a second to load, and most processes deliver nothing.
    from apprise import Apprise, AppriseAsset  # noqa: PLC0415

    asset = AppriseAsset(app_id="Keyway", app_desc="Keyway", app_url="", service_timeout=SEND_TIMEOUT_S)
    targets: list[Target] = []
    names: Counter[str] = Counter()
    for number, url in enumerate(BETWEEN.split(text), 1):
        service = None if re.search(r"\s", url) else Apprise.instantiate(url, asset=asset)
        if service is None:
            raise SettingsError(
                f"KEYWAY_ALERT_URLS: number {number} is not an address that apprise knows, "
                "such as slack://…, tgram://…, mailtos://… or json://…"
            )
        name = public_name(service)
        names[name] += 1
        sender = Apprise(asset=asset)
        sender.add(service)
        targets.append(Target(name if names[name] == 1 else f"{name} ({names[name]})", sender))
    return targets


def public_name(service: "NotifyBase") -> str:
    """What may be said of an address: its scheme, and its host where that is not a token."""
    secure, plain = service.secure_protocol, service.protocol
    protocol = secure if service.secure and secure else plain or secure
    scheme = protocol if isinstance(protocol, str) else next(iter(protocol or ("unknown",)))
    is_host = "host" in service.template_tokens and not service.template_tokens["host"].get("private")
    if not is_host or not service.host:
        return str(scheme)
    return f"{scheme}://{service.host}{f':{service.port}' if service.port else ''}"
