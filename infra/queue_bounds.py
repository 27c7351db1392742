"""The bound in bytes on queues that automations fill, so that none of them fills the broker's disk for all.

It is a policy of RabbitMQ, so that it holds for queues that are there already, and for reply queues, which
automations declare themselves. The bound in count of lanes is an argument of theirs (`infra.broker`).
"""

from typing import Any, Final

from infra.management import Management

LANES: Final = "keyway-lane-bytes"
REPLIES: Final = "keyway-reply-bytes"


def policies(max_bytes: int) -> dict[str, dict[str, Any]]:
    """The policies by name, as the management API takes them; an operator's own with a priority goes first.

    Args:
        max_bytes: the bodies of messages that a queue holds, in bytes.
    """
    bound = {"max-length-bytes": max_bytes}
    return {
        # Lanes, and queues of direct key requests.
        LANES: _policy(r"^(requests|leases)\.", {**bound, "overflow": "reject-publish"}),
        # What a full one does is its automation's choice (`x-overflow`); by default its oldest message goes.
        REPLIES: _policy(r"^replies\.", bound),
    }


def _policy(pattern: str, definition: dict[str, Any]) -> dict[str, Any]:
    return {"pattern": pattern, "apply-to": "queues", "priority": 0, "definition": definition}


async def bound_queues(admin: Management, max_bytes: int) -> None:
    """Set the bound, for the queues that there are and for those to come; harmless to repeat.

    Raises:
        BrokerError: the management API refuses, or can't be reached.
    """
    for name, policy in policies(max_bytes).items():
        await admin.call("PUT", f"policies/{{vhost}}/{name}", policy)
