"""The same call as a Celery task: a quorum queue, acknowledged late, persistent results with confirms.

It runs in an environment of its own (`peers`):

    BENCH_AMQP_URL=… BENCH_BASE_URL=… celery -A celery_worker worker -c 2
"""

import os
from typing import Any

from celery import Celery  # type: ignore[import-not-found, import-untyped, unused-ignore]
from celery.signals import worker_ready  # type: ignore[import-not-found, import-untyped, unused-ignore]
from kombu import Queue  # type: ignore[import-not-found, import-untyped, unused-ignore]
from openai import OpenAI

QUEUE = "celery"

app = Celery("bench", broker=os.environ["BENCH_AMQP_URL"], backend="rpc://")
app.conf.update(
    task_queues=[Queue(QUEUE, durable=True, queue_arguments={"x-queue-type": "quorum"})],
    task_default_queue=QUEUE,
    task_acks_late=True,
    result_persistent=True,
    broker_transport_options={"confirm_publish": True},
    worker_prefetch_multiplier=int(os.environ["BENCH_PREFETCH_MULTIPLIER"]),
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
    task_serializer="json",
    result_serializer="json",
    worker_enable_remote_control=False,
)
client = OpenAI(api_key="sk-bench", base_url=os.environ["BENCH_BASE_URL"])


@app.task(name="bench.generate")  # type: ignore[untyped-decorator, unused-ignore]
def generate(body: dict[str, Any]) -> dict[str, Any]:
    """One chat completion."""
    answer: dict[str, Any] = client.chat.completions.create(**body).model_dump(mode="json")
    return answer


@worker_ready.connect  # type: ignore[untyped-decorator, unused-ignore]
def say_ready(**_: object) -> None:
    """For who waits for it."""
    print("worker_ready", flush=True)  # noqa: T201
