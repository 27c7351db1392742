"""What the OpenAI SDK sends with each call of a key, without what the environment would add to it."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache

from openai import AsyncOpenAI
from pydantic import SecretStr

#: Variables that the SDK and its HTTP client read: an organisation, headers, addresses, proxies.
PREFIX, SUFFIX = "OPENAI_", "_PROXY"


def sdk_headers(base_url: str, api_key: SecretStr) -> Mapping[str, str]:
    """The headers that the SDK's client sends with each call, the key among them.

    Args:
        base_url: the provider's address.
        api_key: the key.
    """
    with _without_environment():
        client = _root().with_options(api_key=api_key.get_secret_value(), base_url=base_url)
    named = {**client.default_headers, **client.auth_headers}
    return {name: value for name, value in named.items() if isinstance(value, str)}


@lru_cache(1)
def _root() -> AsyncOpenAI:
    """One client, whose copies share its pool of connections; nothing is sent on that."""
    return AsyncOpenAI(api_key="-", max_retries=0)


@contextmanager
def _without_environment() -> Iterator[None]:
    names = [name for name in os.environ if name.startswith(PREFIX) or name.upper().endswith(SUFFIX)]
    taken = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(taken)
