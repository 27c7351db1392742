"""All hostile acts."""

from tests.chaos.noisy_neighbour.acts.addresses import ADDRESSES
from tests.chaos.noisy_neighbour.acts.bodies import BODIES
from tests.chaos.noisy_neighbour.acts.connections import CONNECTIONS
from tests.chaos.noisy_neighbour.acts.door import DOOR
from tests.chaos.noisy_neighbour.acts.events import EVENTS
from tests.chaos.noisy_neighbour.acts.floods import FLOODS
from tests.chaos.noisy_neighbour.acts.forgeries import FORGERIES
from tests.chaos.noisy_neighbour.acts.frames import FRAMES
from tests.chaos.noisy_neighbour.acts.leases import LEASES
from tests.chaos.noisy_neighbour.acts.properties import PROPERTIES
from tests.chaos.noisy_neighbour.acts.provider_answers import PROVIDER_ANSWERS
from tests.chaos.noisy_neighbour.acts.provider_connections import PROVIDER_CONNECTIONS
from tests.chaos.noisy_neighbour.acts.queues import QUEUES
from tests.chaos.noisy_neighbour.acts.streams import STREAMS

KINDS = (
    *(CONNECTIONS, FRAMES, DOOR, FORGERIES, PROPERTIES, BODIES, ADDRESSES, QUEUES),
    *(STREAMS, EVENTS, LEASES, FLOODS, PROVIDER_ANSWERS, PROVIDER_CONNECTIONS),
)
ACTS = tuple(act for kind in KINDS for act in kind.acts)
