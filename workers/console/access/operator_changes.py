"""What an admin changes of operators; each change is written to the audit log."""

from typing import Self

from pydantic import SecretStr

from infra.mongo import Mongo
from workers.console.access.audit import AuditLog
from workers.console.access.operators import FIRST, Operator, Operators, Role
from workers.console.access.sessions import ApiTokens


class OperatorChanges:
    """Changes in the name of one operator."""

    def __init__(self, operators: Operators, api_tokens: ApiTokens, audit: AuditLog, actor: str) -> None:
        """Take the operators, the tokens of their scripts, the audit log, and who acts."""
        self._operators = operators
        self._api_tokens = api_tokens
        self._audit = audit
        self._actor = actor

    @classmethod
    def of(cls, mongo: Mongo, actor: str) -> Self:
        """The same over a database."""
        return cls(Operators(mongo), ApiTokens(mongo), AuditLog(mongo), actor)

    async def ensure_first(self) -> SecretStr | None:
        """Make the first operator, an admin, where there is none.

        Returns:
            Its one-time password, which is kept nowhere; None where there are operators already.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        password = await self._operators.ensure_first()
        if password is not None:
            await self._audit.write(self._actor, "operator.added", FIRST, after={"role": Role.ADMIN.value})
        return password

    async def add(self, username: str, role: Role) -> SecretStr:
        """Add an operator.

        Returns:
            A one-time password, which is kept nowhere.

        Raises:
            PlatformError: the username is not a valid one.
            ConflictError: it is taken.
        """
        password = await self._operators.add(username, role)
        await self._audit.write(self._actor, "operator.added", username, after={"role": role.value})
        return password

    async def change(
        self, username: str, *, role: Role | None = None, enabled: bool | None = None
    ) -> Operator:
        """Change what an operator may do, or switch them on or off.

        Returns:
            The operator as they are now.

        Raises:
            NotFoundError: there is no such operator.
            ConflictError: it is the last admin.
        """
        before = await self._operators.find(username)
        await self._operators.change(username, role=role, enabled=enabled)
        after = await self._operators.find(username)
        await self._audit.write(
            self._actor, "operator.changed", username, before=_rights(before), after=_rights(after)
        )
        return after

    async def reset_password(self, username: str) -> SecretStr:
        """Give an operator a new one-time password; their sessions end.

        Raises:
            NotFoundError: there is no such operator.
        """
        password = await self._operators.reset_password(username)
        await self._audit.write(self._actor, "operator.password_reset", username)
        return password

    async def add_token(
        self, username: str, label: str, role: Role, *, days: int | None
    ) -> tuple[str, SecretStr]:
        """Make a token for an operator's scripts.

        Returns:
            Its id, and the token, which is kept nowhere.

        Raises:
            NotFoundError: there is no such operator.
        """
        token_id, token = await self._api_tokens.add(username, label, role, days=days)
        after = {"label": label, "role": role.value}
        await self._audit.write(self._actor, "token.made", token_id, after=after)
        return token_id, token

    async def remove_token(self, token_id: str) -> None:
        """Take a token back.

        Raises:
            NotFoundError: there is no such token.
        """
        await self._api_tokens.remove(token_id)
        await self._audit.write(self._actor, "token.removed", token_id)


def _rights(operator: Operator) -> dict[str, str | bool]:
    return {"role": operator.role.value, "enabled": operator.enabled}
