"""The digest of a request: the same for a repeat, another for another request."""

import json

import pytest

from infra.request_digest import digest_of, digest_of_message

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "n": 1}


def test_neither_the_order_of_keys_nor_the_moment_changes_it() -> None:
    reordered = {"n": 1, "messages": [{"content": "hi", "role": "user"}], "model": "m"}
    assert digest_of("/chat/completions", BODY) == digest_of("/chat/completions", reordered)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/responses", BODY),
        ("/chat/completions", {**BODY, "n": 2}),
        ("/chat/completions", {**BODY, "n": None}),
        ("/chat/completions", {"model": "m", "messages": BODY["messages"]}),
        ("/chat/completions", {**BODY, "seed": 2**70}),
        ("/chat/completions", {**BODY, "user": "\ud800"}),
        ("/chat/completions", {}),
    ],
)
def test_another_path_or_body_has_another(path: str, body: dict[str, object]) -> None:
    assert digest_of(path, body) == digest_of(path, dict(reversed(body.items())))
    assert digest_of(path, body) != digest_of("/chat/completions", BODY)


def test_a_message_has_the_digest_of_its_request_whatever_its_deadline() -> None:
    message = {"path": "/chat/completions", "body": BODY, "deadline": "2026-11-28T10:00:00Z"}
    assert digest_of_message(json.dumps(message).encode()) == digest_of("/chat/completions", BODY)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"path": "/nowhere", "body": {}}', b"\xff"])
def test_a_message_that_is_no_request_has_none(content: bytes) -> None:
    assert digest_of_message(content) is None
