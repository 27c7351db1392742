"""How a rotation is finished, from wherever it was left."""

import pytest

from infra.service_tokens import Finish, what_is_left


@pytest.mark.parametrize(
    ("begun", "own", "following", "left"),
    [
        (True, "old", "new", Finish.HAND_OVER),
        (True, "new", "new", Finish.HAND_OVER),
        (True, "old", None, Finish.LOST),
        (False, "new", "new", Finish.REMOVE_NEXT),
        (False, "old", "never told", Finish.NOTHING),
        (False, "old", None, Finish.NOTHING),
        (False, None, None, Finish.NOTHING),
    ],
)
def test_what_is_left_of_a_rotation(
    begun: bool, own: str | None, following: str | None, left: Finish
) -> None:
    assert what_is_left(begun=begun, own_hash=own, next_hash=following) is left
