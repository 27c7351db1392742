"""Ask now, collect later: RabbitMQ keeps requests and results, whatever becomes of this program.

KEYWAY_URL=amqp://billing-bot:SERVICE_TOKEN@rabbitmq:5672/keyway python durable_collection.py submit
KEYWAY_URL=amqp://billing-bot:SERVICE_TOKEN@rabbitmq:5672/keyway python durable_collection.py collect
"""

import os
import sys

from contracts import SyncKeyway

QUEUE = "nightly"
TEXTS = {"letter-1": "hello", "letter-2": "good morning", "letter-3": "good night"}


def submit(keyway: SyncKeyway) -> None:
    """Ask for each text, under an id by which its result is known again."""
    for request_id, text in TEXTS.items():
        keyway.submit(
            "/embeddings",
            name=QUEUE,
            request_id=request_id,
            timeout=3600,
            model="text-embedding-3-small",
            input=text,
        )
        print(f"{request_id} submitted")


def collect(keyway: SyncKeyway) -> None:
    """Take results until none comes for five seconds; one may come twice, so this must not matter."""
    for result in keyway.results(QUEUE, idle_s=5):
        if result.error is not None:
            print(f"{result.request_id} failed: {result.error.code}")
        elif result.response is not None:
            print(f"{result.request_id} has {len(result.response['data'])} embedding")


with SyncKeyway(os.environ["KEYWAY_URL"]) as client:
    {"submit": submit, "collect": collect}[sys.argv[1]](client)
