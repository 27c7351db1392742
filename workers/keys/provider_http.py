"""HTTP to providers: connections and headers that the process's environment adds nothing to.

One process calls with the keys of many owners, so nothing but a key's own document may say where the key goes
and what goes with it (docs/decisions/0039).
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from pydantic import SecretStr

from infra.errors import UnusableKeyError
from workers.keys.provider_address import address_problem, is_sendable, proxy_of
from workers.keys.sdk_client import sdk_headers

#: Time to open a connection, in seconds.
CONNECT_TIMEOUT_S = 10.0
#: The largest answer that is read, in bytes, uncompressed.
MOST_ANSWER_BYTES = 64 * 1024 * 1024
#: What is read of an error, in bytes, uncompressed; the rest is left.
MOST_ERROR_BYTES = 64 * 1024
#: What an unusable key's attempt says in the ledger as the error's code.
WRONG_ADDRESS = "wrong_base_url"
WRONG_SECRET = "wrong_api_key_characters"  # noqa: S105  # says what is wrong with one


class AnswerTooLargeError(Exception):
    """A provider's answer has more bytes than are read."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where one key's calls go, and what goes with each.

    Attributes:
        base_url: without a slash at its end.
        headers: the key among them.
        proxy: None: the provider is called directly.
    """

    base_url: str
    headers: Mapping[str, str]
    proxy: str | None

    def __repr__(self) -> str:
        """The address alone: the headers hold the key."""
        return f"Destination({self.base_url!r})"


def destination(base_url: object, api_key: SecretStr, *, proxy_from_environment: bool) -> Destination:
    """Where a key's calls go.

    Args:
        base_url: as it stands in the key's document.
        api_key: the key.
        proxy_from_environment: whether `HTTPS_PROXY` and its like count.

    Raises:
        UnusableKeyError: no call can be made with the key as it is stored.
    """
    if (problem := address_problem(base_url)) is not None:
        raise UnusableKeyError(f"the key's base URL is wrong: {problem}", WRONG_ADDRESS)
    secret = api_key.get_secret_value()
    if not is_sendable(secret):
        raise UnusableKeyError("the API key is empty, or has characters that none has", WRONG_SECRET)
    where = str(base_url).rstrip("/")
    return Destination(
        where, sdk_headers(where, api_key), proxy_of(where) if proxy_from_environment else None
    )


def open_session(max_connections: int) -> aiohttp.ClientSession:
    """A pool of connections; close it.

    Args:
        max_connections: how many at a time.
    """
    # Unlike `ssl.create_default_context` it heeds no `SSLKEYLOGFILE`, to which the API keys would leak.
    trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusted.load_default_certs()
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=max_connections, ssl=trusted),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
        trust_env=False,
    )


async def read_answer(response: aiohttp.ClientResponse) -> bytes:
    """Read an answer's body.

    Raises:
        AnswerTooLargeError: it has more than `MOST_ANSWER_BYTES`.
        ClientError: the connection broke.
    """
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > MOST_ANSWER_BYTES:
            raise AnswerTooLargeError
        parts.append(part)
    return b"".join(parts)


async def read_error(response: aiohttp.ClientResponse) -> bytes:
    """Read what a refusal says, up to `MOST_ERROR_BYTES`.

    Raises:
        ClientError: the connection broke.
    """
    content = bytearray()
    async for part in response.content.iter_any():
        content += part
        if len(content) >= MOST_ERROR_BYTES:
            break
    return bytes(content[:MOST_ERROR_BYTES])
