"""Providers' addresses: what may be one, and that whatever may be one can be called."""

import ssl
from pathlib import Path

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from yarl import URL

from infra.errors import PlatformError, UnusableKeyError
from workers.keys.key import Limits
from workers.keys.provider_address import address_problem
from workers.keys.provider_http import destination, open_session
from workers.keys.registry import check_new

SECRET = SecretStr("sk-very-secret-0123456789")


@pytest.mark.parametrize(
    "address",
    [
        "https://api.openai.com/v1",
        "https://api.openai.com/v1/",
        "http://127.0.0.1:8080/v1",
        "http://[::1]:8080/v1",
        "http://my_gateway:80",
        "https://gateway.example.com/openai/deployments/a-b_c%20d/v1",
    ],
)
def test_an_address_is_taken(address: str) -> None:
    assert address_problem(address) is None


@pytest.mark.parametrize(
    "address",
    [
        "https://api.example.com:44e/v1",
        "https://api.example.com:0/v1",
        "https://api.example.com:65536/v1",
        "https://api.example.com:-1/v1",
        "https://api.example.com::443/v1",
        "https://",
        "https:///v1",
        "https://:443/v1",
        "https://a..b/v1",
        "https://-a/v1",
        "https://" + "a" * 64 + "/v1",
        "https://[::1/v1",
        "https://[zz]/v1",
        "https://user:password@host/v1",
        "https://host/v1?key=1",
        "https://host/v1#x",
        "https://ho st/v1",
        "https://host/v1\r\nx-evil: 1",
        "https://host\x00/v1",
        "https://h\u00f6st/v1",
        "ftp://host/v1",
        "host/v1",
        "",
        "https://host/" + "x" * 500,
        None,
        7,
        {"$gt": ""},
    ],
)
def test_what_is_no_address_is_refused_where_it_enters_and_before_a_call(address: object) -> None:
    problem = address_problem(address)
    assert problem is not None
    with pytest.raises(UnusableKeyError, match="base URL is wrong"):
        destination(address, SECRET, proxy_from_environment=True)
    if isinstance(address, str):
        with pytest.raises(PlatformError, match="address can't be one") as refused:
            check_new("Primary", SECRET, Limits(), address)
        assert len(address) < 10 or address not in str(refused.value)


async def test_the_secrets_of_connections_are_written_down_for_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys.log"))
    async with open_session(1) as session:
        assert isinstance(session.connector, aiohttp.TCPConnector)
        trusted = session.connector._ssl
    assert isinstance(trusted, ssl.SSLContext)
    assert trusted.keylog_filename is None
    assert (trusted.verify_mode, trusted.check_hostname) == (ssl.CERT_REQUIRED, True)


@given(st.text(alphabet="abz0189.:/-_[]@%?#", max_size=40))
def test_every_address_that_is_taken_can_be_called(text: str) -> None:
    address = f"http://{text}"
    if address_problem(address) is None:
        url = URL(destination(address, SECRET, proxy_from_environment=True).base_url + "/models")
        assert url.host
        assert url.port
        url.host.encode("idna")
        assert url.user is None
        assert not url.query_string
