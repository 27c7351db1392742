"""What an operator does with dead letters; it is written to the audit log, a look into one as well."""

from typing import Any

from infra.dead_letter_facts import Wanted
from workers.console.access.audit import AuditLog
from workers.console.dead_letters import DeadLetterDesk, Done


class DeadLetterChanges:
    """Acts in the name of one operator."""

    def __init__(self, letters: DeadLetterDesk, audit: AuditLog, actor: str) -> None:
        """Take the letters, the audit log, and who acts."""
        self._letters = letters
        self._audit = audit
        self._actor = actor

    async def reveal(self, letter_id: str) -> dict[str, Any]:
        """All that a letter says, its body too (`infra.dead_letter_facts.everything_of`).

        Raises:
            NotFoundError: there is no such letter.
            BrokerError: RabbitMQ can't be reached or refuses.
        """
        letter = await self._letters.show(letter_id)
        about = {name: letter[name] for name in ("automation_id", "request_id")}
        await self._audit.write(self._actor, "dead_letter.revealed", letter_id, after=about)
        return letter

    async def replay(self, wanted: Wanted) -> Done:
        """Publish letters again.

        Raises:
            NotFoundError: none of the letters that are named is there.
            BrokerError: RabbitMQ can't be reached or refuses.
        """
        became = await self._letters.replay(wanted)
        await note(self._audit, self._actor, "dead_letters.replayed", wanted, became)
        return became

    async def drop(self, wanted: Wanted) -> Done:
        """Delete letters.

        Raises:
            NotFoundError: none of the letters that are named is there.
            BrokerError: RabbitMQ can't be reached or refuses.
        """
        became = await self._letters.drop(wanted)
        await note(self._audit, self._actor, "dead_letters.dropped", wanted, became)
        return became


async def note(audit: AuditLog, actor: str, action: str, wanted: Wanted, became: Done) -> None:
    """Note in the audit log which letters it was; of many, the first hundred."""
    asked = {
        "automation_id": wanted.automation_id,
        "reason": wanted.reason,
        "request_id": wanted.request_id,
    }
    after = {"count": len(became.done), "kept": len(became.kept), "ids": became.done[:100]}
    target = became.done[0] if len(became.done) == 1 else f"{len(became.done)} dead letters"
    await audit.write(actor, action, target, before=asked, after=after)
