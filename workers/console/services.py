"""What the console's API and pages stand on: open connections, and the services over them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aio_pika.abc import AbstractRobustConnection

from infra.background_tasks import BackgroundTasks
from infra.broker import connect as connect_broker
from infra.errors import BrokerError
from infra.lanes import NOTE_EVERY_S, QueueWatch
from infra.management import Management, management
from infra.mongo import Mongo, PyMongoError, wait_for_mongo
from infra.mongo import connect as connect_mongo
from infra.provision import Provisioner
from infra.settings import Settings
from infra.vault import Vault
from workers.budgets.registry import BudgetRegistry
from workers.console.access.audit import AuditLog
from workers.console.access.operator_changes import OperatorChanges
from workers.console.access.operators import Operators
from workers.console.access.service_tokens import ServiceTokenDoor
from workers.console.access.sessions import ApiTokens, Sessions
from workers.console.access.sign_in import SignIn
from workers.console.automation_changes import AutomationChanges
from workers.console.automations import AutomationList
from workers.console.budget_changes import BudgetChanges
from workers.console.dead_letter_changes import DeadLetterChanges
from workers.console.dead_letters import DeadLetterDesk
from workers.console.direct_keys import DirectKeys
from workers.console.key_changes import KeyChanges
from workers.console.key_table import KeyTable
from workers.console.lanes import LaneDesk
from workers.console.leases import LeaseList
from workers.console.model_totals import READ_EVERY_S, ModelTotals
from workers.console.overview import Overviews
from workers.console.request_log import RequestLog
from workers.console.usage_report import UsageReports
from workers.keys.registry import KeyRegistry


@dataclass(frozen=True, slots=True)
class Services:
    """One console process's connections."""

    settings: Settings
    mongo: Mongo
    admin: Management
    connection: AbstractRobustConnection
    vault: Vault
    watch: QueueWatch
    overviews: Overviews
    dead_letters: DeadLetterDesk
    door: ServiceTokenDoor
    models: ModelTotals
    #: Automations, with their keys and processes.
    automations: AutomationList
    #: Queues of requests.
    lanes: LaneDesk

    @property
    def operators(self) -> Operators:
        """Who may sign in."""
        return Operators(self.mongo)

    @property
    def sessions(self) -> Sessions:
        """Who is signed in."""
        return Sessions(self.mongo)

    @property
    def api_tokens(self) -> ApiTokens:
        """Tokens of scripts."""
        return ApiTokens(self.mongo)

    @property
    def sign_in(self) -> SignIn:
        """Checks passwords."""
        return SignIn(self.mongo)

    def operator_changes(self, actor: str) -> OperatorChanges:
        """Adds and changes operators, in somebody's name."""
        return OperatorChanges.of(self.mongo, actor)

    @property
    def audit(self) -> AuditLog:
        """Who changed what."""
        return AuditLog(self.mongo)

    @property
    def key_table(self) -> KeyTable:
        """Keys, a part of them at a time."""
        return KeyTable(self.mongo)

    @property
    def leases(self) -> LeaseList:
        """Keys that are lent."""
        return LeaseList(self.mongo)

    @property
    def budgets(self) -> BudgetRegistry:
        """Budgets, to look at: changes go by `budget_changes`."""
        return BudgetRegistry(self.mongo, "console")

    @property
    def requests(self) -> RequestLog:
        """Requests under way, and those that ended."""
        return RequestLog(self.mongo, self.vault, result_ttl_s=self.settings.result_ttl_s)

    @property
    def direct_keys(self) -> DirectKeys:
        """Lends keys to automations that speak no AMQP."""
        return DirectKeys(self.connection, self.mongo)

    @property
    def usage(self) -> UsageReports:
        """What was used, and what it cost."""
        return UsageReports(self.mongo, self.models)

    def automation_changes(self, actor: str) -> AutomationChanges:
        """Adds and changes automations, in somebody's name."""
        provisioner = Provisioner(self.mongo, self.admin, self.connection, self.settings)
        return AutomationChanges(provisioner, self.automations, self.lanes, self.audit, actor)

    def key_changes(self, actor: str) -> KeyChanges:
        """Adds and changes keys, in somebody's name."""
        registry = KeyRegistry(self.mongo, self.vault, actor)
        proxied = self.settings.proxy_from_environment
        return KeyChanges(self.mongo, self.vault, registry, self.audit, actor, proxy_from_environment=proxied)

    def budget_changes(self, actor: str) -> BudgetChanges:
        """Sets and removes budgets, in somebody's name."""
        return BudgetChanges(BudgetRegistry(self.mongo, actor), self.audit, actor)

    def dead_letter_changes(self, actor: str) -> DeadLetterChanges:
        """Reveals, replays and drops dead letters, in somebody's name."""
        return DeadLetterChanges(self.dead_letters, self.audit, actor)


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    """Connect to RabbitMQ, its management API and MongoDB.

    Yields:
        The services, for as long as the connections are open.

    Raises:
        PlatformError: a setting is wrong, or RabbitMQ or MongoDB refuses.
    """
    vault = Vault(settings.master_keys)
    url = settings.mongo_url.get_secret_value()
    async with connect_mongo(url, settings.mongo_database) as mongo, management(settings) as admin:
        await wait_for_mongo(mongo)
        await mongo.ensure_schema()
        _, connection = await connect_broker(settings, "console")
        watch = QueueWatch(admin)
        overviews = Overviews(mongo, watch, result_ttl_s=settings.result_ttl_s)
        dead_letters, door = DeadLetterDesk(settings, mongo), ServiceTokenDoor(settings, mongo)
        models = ModelTotals(mongo)
        async with connection, _kept(watch, models):
            yield Services(
                settings,
                mongo,
                admin,
                connection,
                vault,
                watch,
                overviews,
                dead_letters,
                door,
                models,
                AutomationList(mongo),
                LaneDesk(mongo, admin, watch),
            )


@asynccontextmanager
async def _kept(watch: QueueWatch, models: ModelTotals) -> AsyncIterator[None]:
    """Take notes of the queues meanwhile, and read past days ahead."""
    tasks = BackgroundTasks("console")
    tasks.every(NOTE_EVERY_S, "notes of queues", watch.queues, passes=(BrokerError,))
    tasks.every(READ_EVERY_S, "totals of past days", models.read_ahead, passes=(PyMongoError,))
    try:
        yield
    finally:
        await tasks.close()
