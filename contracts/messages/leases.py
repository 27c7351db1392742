"""Direct key requests: `key.lease.request.v1` and its answer `key.lease.v1`."""

from pydantic import ConfigDict, Field, SecretStr

from contracts.messages._base import Message, Time


class KeyLeaseRequest(Message):
    """An automation asks for a key to call the provider itself."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="key.lease.request.v1")

    model: str | None = None
    estimated_tokens: int = Field(default=2000, ge=0)
    ttl_s: int = Field(default=300, ge=1, le=3600, description="How long the key is lent, in seconds.")
    recipient_public_key: str | None = Field(
        default=None, description="Base64 X25519 key to seal the API key to."
    )


class KeyLease(Message):
    """A key, lent until `expires_at` for so many requests and tokens."""

    model_config = ConfigDict(frozen=True, extra="ignore", title="key.lease.v1")

    lease_id: str
    key_alias: str
    api_key: SecretStr | None = None
    sealed_api_key: str | None = None
    base_url: str
    expires_at: Time
    requests: int = Field(ge=0)
    tokens: int = Field(ge=0)
