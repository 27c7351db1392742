"""The requests under way, each id once."""

import pytest

from contracts.under_way import UnderWay


def test_an_id_is_under_way_once_and_free_when_it_is_over() -> None:
    under_way = UnderWay()
    with under_way.hold("r-1"):
        assert len(under_way) == 1
        with pytest.raises(ValueError, match="r-1 is under way already"), under_way.hold("r-1"):
            pass
        under_way.add("r-2")
        assert len(under_way) == 2
    under_way.remove("r-2")
    assert len(under_way) == 0
    with under_way.hold("r-1"):
        pass
