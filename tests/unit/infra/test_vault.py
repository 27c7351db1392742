"""The vault: what it seals opens again, in its own place and under its own master key only."""

import base64
from dataclasses import replace
from typing import Any

import pytest
from bson import decode, encode
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from infra.errors import SettingsError, VaultError
from infra.vault import Sealed, Vault

PLACE = "key:billing-bot:key-1"


def make_vault(*key_ids: str) -> Vault:
    return Vault(
        {key_id: SecretStr(base64.b64encode(key_id.encode().ljust(32)).decode()) for key_id in key_ids}
    )


VAULT = make_vault("m1")


@given(st.binary(max_size=2000), st.text(max_size=100))
def test_what_is_sealed_opens_again(plaintext: bytes, place: str) -> None:
    sealed = VAULT.seal(plaintext, place)
    assert VAULT.open(sealed, place) == plaintext
    assert len(plaintext) < 8 or plaintext not in sealed.ciphertext


@given(st.text(max_size=100), st.text(max_size=100))
def test_a_ciphertext_does_not_open_in_another_place(place: str, other: str) -> None:
    sealed = VAULT.seal(b"sk-secret", place)
    if place == other:
        assert VAULT.open(sealed, other) == b"sk-secret"
        return
    with pytest.raises(VaultError):
        VAULT.open(sealed, other)


@given(st.integers(min_value=0), st.integers(0, 7), st.sampled_from(["nonce", "ciphertext"]))
def test_one_changed_bit_is_noticed(position: int, bit: int, part: str) -> None:
    sealed = VAULT.seal(b"sk-secret", PLACE)
    changed = bytearray(getattr(sealed, part))
    changed[position % len(changed)] ^= 1 << bit
    change: dict[str, Any] = {part: bytes(changed)}
    with pytest.raises(VaultError, match=f"can't open {PLACE}"):
        VAULT.open(replace(sealed, **change), PLACE)


@pytest.mark.parametrize("kept", [0, 1, 15, 24])
def test_a_ciphertext_that_was_cut_is_noticed(kept: int) -> None:
    sealed = VAULT.seal(b"sk-secret", PLACE)
    with pytest.raises(VaultError):
        VAULT.open(replace(sealed, ciphertext=sealed.ciphertext[:kept]), PLACE)


@pytest.mark.parametrize("nonce", [b"", b"short", b"x" * 11, b"x" * 200])
def test_a_nonce_of_another_length_is_noticed(nonce: bytes) -> None:
    sealed = VAULT.seal(b"sk-secret", PLACE)
    with pytest.raises(VaultError, match=f"can't open {PLACE}"):
        VAULT.open(replace(sealed, nonce=nonce), PLACE)


def test_an_unknown_master_key_is_named() -> None:
    sealed = make_vault("m2").seal(b"sk-secret", PLACE)
    with pytest.raises(VaultError, match="'m2' is not in KEYWAY_MASTER_KEYS"):
        VAULT.open(sealed, PLACE)


def test_another_key_under_the_same_id_does_not_open() -> None:
    sealed = replace(make_vault("m2").seal(b"sk-secret", PLACE), master_key="m1")
    with pytest.raises(VaultError):
        VAULT.open(sealed, PLACE)


def test_no_error_tells_the_secret() -> None:
    sealed = VAULT.seal(b"sk-secret", PLACE)
    with pytest.raises(VaultError) as raised:
        VAULT.open(sealed, "elsewhere")
    assert "sk-secret" not in str(raised.value)


def test_each_ciphertext_has_a_fresh_nonce() -> None:
    sealed = [VAULT.seal(b"sk-secret", PLACE) for _ in range(200)]
    assert {len(one.nonce) for one in sealed} == {12}
    assert len({one.nonce for one in sealed}) == 200
    assert len({one.ciphertext for one in sealed}) == 200


def test_the_first_master_key_seals_and_every_one_opens() -> None:
    old = make_vault("m1").seal(b"sk-secret", PLACE)
    rotated = make_vault("m2", "m1")
    assert rotated.current == "m2"
    assert rotated.seal(b"x", PLACE).master_key == "m2"
    assert rotated.open(old, PLACE) == b"sk-secret"


def test_resealing_brings_a_secret_under_the_current_master_key() -> None:
    old = make_vault("m1").seal(b"sk-secret", PLACE)
    renewed = make_vault("m2", "m1").reseal(old, PLACE)
    assert renewed is not None
    assert make_vault("m2").open(renewed, PLACE) == b"sk-secret"


def test_what_stands_under_the_current_master_key_is_not_resealed() -> None:
    assert VAULT.reseal(VAULT.seal(b"sk-secret", PLACE), PLACE) is None


def test_what_can_not_be_opened_can_not_be_resealed() -> None:
    old = make_vault("m1").seal(b"sk-secret", PLACE)
    with pytest.raises(VaultError):
        make_vault("m2", "m1").reseal(old, "elsewhere")
    with pytest.raises(VaultError):
        make_vault("m2").reseal(old, PLACE)


def test_a_vault_needs_a_master_key() -> None:
    with pytest.raises(SettingsError, match=r"^KEYWAY_MASTER_KEYS: missing"):
        Vault({})


def test_the_same_secret_has_the_same_fingerprint_and_another_has_not() -> None:
    assert VAULT.fingerprint(SecretStr("sk-one")) == make_vault("m1").fingerprint(SecretStr("sk-one"))
    assert VAULT.fingerprint(SecretStr("sk-one")) != VAULT.fingerprint(SecretStr("sk-two"))


def test_a_fingerprint_says_nothing_without_the_master_key() -> None:
    assert VAULT.fingerprint(SecretStr("sk-one")) != make_vault("m2").fingerprint(SecretStr("sk-one"))
    assert "sk-one" not in VAULT.fingerprint(SecretStr("sk-one"))


def test_a_fingerprint_of_an_older_master_key_is_found_again() -> None:
    secret = SecretStr("sk-one")
    older, rotated = make_vault("m1"), make_vault("m2", "m1")
    assert older.fingerprint(secret) in rotated.fingerprints(secret)
    assert rotated.fingerprint(secret) == rotated.fingerprints(secret)[0]


def test_a_sealed_secret_survives_the_database() -> None:
    sealed = VAULT.seal(b"sk-secret", PLACE)
    assert Sealed.from_document(decode(encode(sealed.document()))) == sealed
