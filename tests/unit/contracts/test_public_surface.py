"""What an automation may import from `contracts`; a change here is a change of the public API."""

import contracts


def test_the_public_names_are_these() -> None:
    assert contracts.__all__ == [
        "ErrorCode",
        "GenerationChunk",
        "GenerationError",
        "GenerationRequest",
        "GenerationResult",
        "GenerationStream",
        "Keyway",
        "KeywayError",
        "Lease",
        "Progress",
        "PublishError",
        "ReplyTimeoutError",
        "SyncKeyway",
    ]


def test_every_public_name_is_there() -> None:
    assert [name for name in contracts.__all__ if not hasattr(contracts, name)] == []
