"""What an error of a write means: whether it may pass, and which operations of a bulk write were refused."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    DuplicateKeyError,
    ExecutionTimeout,
    OperationFailure,
    PyMongoError,
    WriteConcernError,
    WriteError,
)

DUPLICATE_KEY: Final = 11000

#: How the server, or the driver, says that the same operation may be tried again.
PASSING_LABELS: Final = ("RetryableWriteError", "TransientTransactionError", "UnknownTransactionCommitResult")

#: The server's errors that tell of its own state, not of what it was asked to write. These are listed, since
#: the others are without number: each aggregation expression has codes of its own.
PASSING_CODES: Final = frozenset(
    {
        6,  # HostUnreachable
        7,  # HostNotFound
        8,  # UnknownError
        11,  # UserNotFound: a password is being changed
        13,  # Unauthorized: the same
        18,  # AuthenticationFailed: the same
        24,  # LockTimeout
        43,  # CursorNotFound
        46,  # LockBusy
        50,  # MaxTimeMSExpired
        63,  # StaleShardVersion
        64,  # WriteConcernFailed
        79,  # UnknownReplWriteConcern
        89,  # NetworkTimeout
        91,  # ShutdownInProgress
        100,  # UnsatisfiableWriteConcern
        112,  # WriteConflict
        133,  # FailedToSatisfyReadPreference
        134,  # ReadConcernMajorityNotAvailableYet
        146,  # ExceededMemoryLimit
        150,  # StaleEpoch
        189,  # PrimarySteppedDown
        202,  # NetworkInterfaceExceededTimeLimit
        225,  # TransactionTooOld
        239,  # SnapshotTooOld
        246,  # SnapshotUnavailable
        251,  # NoSuchTransaction
        262,  # ExceededTimeLimit
        290,  # TransactionExceededLifetimeLimitSeconds
        317,  # ConnectionPoolExpired
        365,  # TemporarilyUnavailable
        384,  # ConnectionError
        391,  # ReauthenticationRequired
        8000,  # AtlasError: over a quota of storage or connections
        9001,  # SocketException
        10058,  # LegacyNotPrimary
        10107,  # NotWritablePrimary
        11600,  # InterruptedAtShutdown
        11601,  # Interrupted
        11602,  # InterruptedDueToReplStateChange
        13388,  # StaleConfig
        13435,  # NotPrimaryNoSecondaryOk
        13436,  # NotPrimaryOrSecondary
        14031,  # OutOfDiskSpace
    }
)


def may_pass(error: BaseException) -> bool:
    """Whether a write that failed may succeed when it is tried again as it is.

    A network, an election, a full disk or a write concern that was not met may pass. What MongoDB or the
    driver refuses because of its content does not: a number of more than 64 bits, an overflow, a document
    that is too large or too deep, a text that is not Unicode. An error of our own code does not pass either.

    Args:
        error: that a write, or a transaction, raised.
    """
    if isinstance(error, BulkWriteError):
        # Without a write error, the write concern alone was not met.
        return all(failure.get("code") in PASSING_CODES for failure in _write_errors(error))
    if isinstance(error, PyMongoError) and any(map(error.has_error_label, PASSING_LABELS)):
        return True
    if isinstance(error, WriteConcernError | ExecutionTimeout):
        return True
    if isinstance(error, OperationFailure):
        return error.code in PASSING_CODES
    return isinstance(error, ConnectionFailure | OSError)


def refused(error: BulkWriteError) -> dict[int, WriteError]:
    """Which operations of an unordered bulk write MongoDB refused for good, by index; it did the others.

    Raises:
        BulkWriteError: nobody knows whether what was written is kept, since a write concern was not met; or
            an operation failed of what may pass.
    """
    if error.details.get("writeConcernErrors") or may_pass(error):
        raise error
    failures = _write_errors(error)
    if any(failure.get("code") in PASSING_CODES for failure in failures):
        raise error
    return {failure["index"]: _write_error(failure) for failure in failures}


def _write_errors(error: BulkWriteError) -> Sequence[Mapping[str, Any]]:
    return error.details.get("writeErrors") or ()


def _write_error(failure: Mapping[str, Any]) -> WriteError:
    kind = DuplicateKeyError if failure.get("code") == DUPLICATE_KEY else WriteError
    # Without the operation itself, which the driver adds: it may hold what belongs in no log.
    return kind(str(failure.get("errmsg", "")), failure.get("code"))
