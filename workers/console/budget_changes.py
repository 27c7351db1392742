"""What an operator changes of budgets; each change is written to the audit log."""

from workers.budgets.budget import Budget, Window
from workers.budgets.registry import BudgetRegistry, Subject
from workers.console.access.audit import AuditLog


class BudgetChanges:
    """Changes in the name of one operator."""

    def __init__(self, registry: BudgetRegistry, audit: AuditLog, actor: str) -> None:
        """Take the budgets in the operator's name, the audit log, and who acts."""
        self._registry = registry
        self._audit = audit
        self._actor = actor

    async def set(
        self,
        subject: Subject,
        window: Window,
        limit: int,
        *,
        soft_percent: int | None = None,
        hard: bool | None = None,
    ) -> Budget:
        """Set a budget, or change it; the arguments are those of `BudgetRegistry.set`.

        Returns:
            The budget as it is now.

        Raises:
            NotFoundError: there is no such automation or key.
            PlatformError: the limit or the percentage is out of range.
        """
        before = await self._registry.find(subject, window)
        budget = await self._registry.set(subject, window, limit, soft_percent=soft_percent, hard=hard)
        await self._audit.write(
            self._actor,
            "budget.set",
            _name(budget),
            before=None if before is None else _terms(before),
            after=_terms(budget),
        )
        return budget

    async def remove(self, subject: Subject, window: Window) -> None:
        """Remove a budget.

        Raises:
            NotFoundError: there is no such automation, key or budget.
        """
        before = await self._registry.find(subject, window)
        await self._registry.remove(subject, window)
        if before is not None:
            await self._audit.write(self._actor, "budget.removed", _name(before), before=_terms(before))


def _name(budget: Budget) -> str:
    """Such as `billing-bot/daily budget of key Primary`; of the automation itself, without its name again."""
    of = "" if budget.scope == "automation" else f" of {budget.scope} {budget.label}"
    return f"{budget.automation_id}/{'daily' if budget.window == 'day' else 'monthly'} budget{of}"


def _terms(budget: Budget) -> dict[str, int | bool]:
    return {"limit_nanousd": budget.limit, "soft_percent": budget.soft_percent, "hard": budget.hard}
