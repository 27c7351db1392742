"""The digest of a request: the same for a repeat, another for another request."""

import pytest

from workers.generation.request_digest import digest_of

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
