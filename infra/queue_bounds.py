"""The bound in bytes on queues that automations fill, so that none of them fills the broker's disk for all.

It is a policy of RabbitMQ, so that it holds for queues that are there already, and for reply queues, which
automations declare themselves. The bound in count of lanes is an argument of theirs (`infra.broker`).
"""

from typing import Any, Final

from infra.management import Management

POLICY: Final = "keyway-bytes"
#: Lanes, queues of direct key requests, and reply queues.
PATTERN: Final = r"^(requests|leases|replies)\."


def policy(max_bytes: int) -> dict[str, Any]:
    """The policy as the management API takes it; a policy of the operator's own with a priority goes first.

    Args:
        max_bytes: the bodies of messages that a queue holds, in bytes.
    """
    return {
        "pattern": PATTERN,
        "apply-to": "queues",
        "priority": 0,
        # A queue that would drop its oldest message instead says so by its own `x-overflow`.
        "definition": {"max-length-bytes": max_bytes, "overflow": "reject-publish"},
    }


async def bound_queues(admin: Management, max_bytes: int) -> None:
    """Set the bound, for the queues that there are and for those to come; harmless to repeat.

    Raises:
        BrokerError: the management API refuses, or can't be reached.
    """
    await admin.call("PUT", f"policies/{{vhost}}/{POLICY}", policy(max_bytes))
