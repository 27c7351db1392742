"""Which errors of a write may pass, and which operations of a bulk write were refused for good."""

from typing import Any

import pytest
from bson.errors import InvalidDocument
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    DocumentTooLarge,
    DuplicateKeyError,
    ExecutionTimeout,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WriteConcernError,
    WTimeoutError,
)

from infra.mongo_errors import may_pass, refused

NOT_MET = {"code": 64, "errmsg": "waiting for replication timed out"}


def bulk(*codes: int, concerns: list[dict[str, Any]] | None = None) -> BulkWriteError:
    errors = [{"index": 10 + n, "code": code, "errmsg": f"E{code}"} for n, code in enumerate(codes)]
    return BulkWriteError({"writeErrors": errors, "writeConcernErrors": concerns or []})


@pytest.mark.parametrize(
    "error",
    [
        AutoReconnect("closed"),
        NetworkTimeout("late"),
        NotPrimaryError("stepped down"),
        ServerSelectionTimeoutError("nobody"),
        ExecutionTimeout("late", 50),
        WriteConcernError("not met", 64),
        WTimeoutError("late", 64),
        OperationFailure("conflict", 112),
        OperationFailure("stepped down", 10107),
        OperationFailure("password", 18),
        OperationFailure("disk", 14031),
        OperationFailure("any", 4711, {"errorLabels": ["TransientTransactionError"]}),
        bulk(concerns=[NOT_MET]),
        bulk(112),
        TimeoutError(),
        ConnectionResetError(),
    ],
)
def test_what_tells_of_the_network_or_the_servers_state_may_pass(error: Exception) -> None:
    assert may_pass(error)


@pytest.mark.parametrize(
    "error",
    [
        OverflowError("MongoDB can only handle up to 8-byte ints"),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
        InvalidDocument("cannot encode object"),
        DocumentTooLarge("BSON document too large"),
        ValueError("embedded null"),
        TypeError("str expected"),
        ZeroDivisionError(),
        OperationFailure("$inc overflows", 2),
        OperationFailure("too deep", 15),
        OperationFailure("can't convert to long", 241),
        OperationFailure("fails validation", 121),
        OperationFailure("too large", 10334),
        OperationFailure("only supports numeric types", 16554),
        DuplicateKeyError("there", 11000),
        bulk(2),
        bulk(2, concerns=[NOT_MET]),
        bulk(112, 2),
        PyMongoError("of no kind"),
    ],
)
def test_what_tells_of_the_content_of_a_write_or_of_a_defect_does_not_pass(error: Exception) -> None:
    assert not may_pass(error)


def test_each_operation_that_was_refused_for_good_has_its_own_error() -> None:
    found = refused(bulk(11000, 2))
    assert {index: type(error).__name__ for index, error in found.items()} == {
        10: "DuplicateKeyError",
        11: "WriteError",
    }
    assert str(found[11]) == "E2"


@pytest.mark.parametrize(
    "error", [bulk(concerns=[NOT_MET]), bulk(11000, concerns=[NOT_MET]), bulk(11000, 112)]
)
def test_a_bulk_write_of_which_nobody_knows_what_is_kept_says_nothing_of_its_operations(
    error: BulkWriteError,
) -> None:
    with pytest.raises(BulkWriteError):
        refused(error)
