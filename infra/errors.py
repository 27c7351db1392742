"""The platform's own errors; what automations see is in `contracts.errors`.

PlatformError
├── SettingsError        a setting is missing or wrong
├── BrokerError          RabbitMQ refused, or its management API did
├── StackError           `keyway up` can't start a part of the local stack
├── VaultError           a secret can't be opened: wrong master key, or moved ciphertext
├── UnusableKeyError     no call can be made with a key as it is stored
└── NotFoundError / ConflictError   what an operator named is not there, or is there already
"""


class PlatformError(Exception):
    """Base of all errors of Keyway's own services; its text is one line that an operator can act on."""


class SettingsError(PlatformError):
    """A setting is missing or has a wrong value; the text names it and says why."""


class BrokerError(PlatformError):
    """RabbitMQ or its management API refused, or can't be reached."""


class StackError(PlatformError):
    """A part of the local stack can't be started; the text says what to install or do."""


class VaultError(PlatformError):
    """A secret can't be opened."""


class UnusableKeyError(PlatformError):
    """No call can be made with a key as it is stored: its address or its secret is wrong.

    Attributes:
        code: the same in one word, as the ledger has it.
    """

    def __init__(self, message: str, code: str) -> None:
        """Say what is wrong, without the value."""
        super().__init__(message)
        self.code = code


class NotFoundError(PlatformError):
    """What the operator named does not exist."""


class ConflictError(PlatformError):
    """What the operator wants to add is there already."""
