"""A provider's address and an API key: what may be one, checked where they enter and before each call."""

import re
from urllib.request import getproxies, proxy_bypass

from yarl import URL

#: The longest address, in characters.
LONGEST = 500
#: Characters that an address may have (RFC 3986), those of user names, queries and fragments left out.
_ADDRESS = re.compile(r"https?://[A-Za-z0-9._~:\[\]-]+(/[A-Za-z0-9._~!$&'()*+,;=:%/-]*)?")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252}[A-Za-z0-9])?")
LARGEST_PORT = 65_535
#: A part of a host's name has at most so many characters (RFC 1035).
LONGEST_LABEL = 63


def address_problem(base_url: object) -> str | None:
    """Why something is not a provider's address; None for one that is.

    Args:
        base_url: up to and with `/v1`, such as `https://api.openai.com/v1`.

    Returns:
        What is wrong in a few words, without the address itself.
    """
    if not isinstance(base_url, str):
        return "it is not a text"
    if len(base_url) > LONGEST:
        return f"it has more than {LONGEST} characters"
    if not _ADDRESS.fullmatch(base_url):
        return "expected http:// or https://, a host, perhaps a port and a path, and nothing else"
    try:
        url = URL(base_url)
        host, port = url.raw_host, url.explicit_port
    except ValueError:
        return "its port is not a number, or its host is not a name or an IP address"
    if port is not None and not 1 <= port <= LARGEST_PORT:
        return f"its port is not between 1 and {LARGEST_PORT}"
    if not host or not (":" in host or _is_name(host)):
        return "its host is not a name or an IP address"
    return None


def proxy_of(base_url: str) -> str | None:
    """The proxy that the process's environment names for an address (`HTTPS_PROXY`, `NO_PROXY`), if any."""
    url = URL(base_url)
    return None if proxy_bypass(url.host or "") else getproxies().get(url.scheme)


def is_sendable(secret: str) -> bool:
    """Whether an API key can stand in a header."""
    return bool(secret) and secret.isascii() and secret.isprintable()


def _is_name(host: str) -> bool:
    """Whether a resolver would take it: encoding a name with an empty or a long part raises."""
    return _HOST.fullmatch(host) is not None and all(
        0 < len(label) <= LONGEST_LABEL for label in host.split(".")
    )
