"""RabbitMQ's management HTTP API: users, permissions, vhosts, queues."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import aiohttp
from yarl import URL

from infra.errors import BrokerError
from infra.settings import Settings

REQUEST_TIMEOUT_S = 15.0
#: Every queue of the vhost, with depths and nothing that is dear to compute.
QUEUES = "queues/{vhost}?disable_stats=true&enable_queue_totals=true"


def vhost_of(settings: Settings) -> str:
    """The vhost that the AMQP address names; RabbitMQ's default is `/`."""
    path = urlsplit(settings.amqp_url.get_secret_value()).path
    return unquote(path[1:]) or "/"


class Management:
    """Calls to the management API; make one with `management()`."""

    def __init__(self, session: aiohttp.ClientSession, base: URL, vhost: str) -> None:
        self._session = session
        self._base = base
        self._vhost = quote(vhost, safe="")

    async def call(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, may_be_missing: bool = False
    ) -> Any:
        """Make one call.

        Args:
            method: the HTTP method.
            path: below `/api/`, its parts quoted; `{vhost}` stands for the vhost.
            body: sent as JSON.
            may_be_missing: whether an answer that there is no such thing is None, not an error.

        Returns:
            The decoded JSON, or None where there is no body.

        Raises:
            BrokerError: it can't be reached, or answers with an error status.
        """
        url = self._base.join(URL(f"/api/{path.replace('{vhost}', self._vhost)}", encoded=True))
        try:
            async with self._session.request(method, url, json=body) as response:
                if response.status in {401, 403}:
                    raise BrokerError("KEYWAY_AMQP_ADMIN_URL: RabbitMQ refuses the user or password")
                if response.status == 404 and may_be_missing:
                    return None
                if response.status >= 400:
                    reason = (await response.text())[:200]
                    raise BrokerError(
                        f"RabbitMQ's management API answers {response.status} to {path}: {reason}"
                    )
                return await response.json() if response.content_type == "application/json" else None
        except aiohttp.ClientConnectorCertificateError as error:
            reason = getattr(error.certificate_error, "verify_message", "")
            raise BrokerError(
                f"KEYWAY_AMQP_ADMIN_URL: the management API's certificate is not trusted: {reason}"
            ) from None
        except (aiohttp.ClientError, TimeoutError) as error:
            where = f"{self._base.host}:{self._base.port}"
            raise BrokerError(
                f"KEYWAY_AMQP_ADMIN_URL: no management API at {where} ({type(error).__name__})"
            ) from None

    async def ensure_vhost(self) -> None:
        """Create the vhost when it is missing."""
        await self.call("PUT", "vhosts/{vhost}")
        await self.call(
            "PUT",
            f"permissions/{{vhost}}/{quote((await self.call('GET', 'whoami'))['name'], safe='')}",
            {
                "configure": ".*",
                "write": ".*",
                "read": ".*",
            },
        )

    async def queues(self) -> list[dict[str, Any]]:
        """Every queue of the vhost with its depth and consumers."""
        found: list[dict[str, Any]] = await self.call("GET", QUEUES)
        return found


@asynccontextmanager
async def management(settings: Settings) -> AsyncIterator[Management]:
    """Open a session with the management API; by HTTPS, `?cafile=` in its address names who is trusted."""
    url = URL(settings.amqp_admin_url.get_secret_value())
    headers = {"Authorization": aiohttp.encode_basic_auth(url.user or "guest", url.password or "guest")}
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
    # It reads every certificate that the machine trusts: 30 ms.
    trusted = ssl.create_default_context(cafile=url.query.get("cafile")) if url.scheme == "https" else True
    connector = aiohttp.TCPConnector(ssl=trusted)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector) as session:
        yield Management(session, url.with_user(None).with_path("/"), vhost_of(settings))
