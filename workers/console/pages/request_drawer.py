"""One request from near: where its time went, and each attempt."""

from nicegui import ui

from infra.errors import PlatformError
from infra.mongo import Document
from workers.console.pages.charts import TONES, waterfall
from workers.console.pages.dialogs import drawer
from workers.console.pages.figures import count, duration, iso, money
from workers.console.pages.layout import facts, local_time
from workers.console.pages.tones import OUTCOME_TONES, REQUEST_TONES
from workers.console.pages.visit import Visit, say, sentence
from workers.console.request_log import RequestDetail
from workers.console.request_timeline import Step

STEPS = {"queued": "in the lane", "waited": "for a key", "reply": "reply"}


async def open_request(visit: Visit, automation_id: str, request_id: str) -> None:
    """Show a request in a panel on the right."""
    try:
        detail = await visit.services.requests.find(automation_id, request_id)
    except PlatformError as error:
        say(sentence(str(error)), good=False)
        return
    summary = detail.summary
    with drawer(summary.request_id):
        with facts():
            ui.label("Automation")
            ui.label(summary.automation_id)
            ui.label("Status")
            with ui.row(align_items="center"):
                tone = REQUEST_TONES[summary.status.value]
                ui.label(summary.status.value).classes(f"kw-chip kw-{tone}")
                ui.label((summary.code or "").replace("_", " "))
            ui.label("Time")
            local_time(iso(summary.at) or "")
            for label, value in (
                ("Model", summary.model),
                ("Path", summary.path),
                ("User", summary.user_id),
                ("In hand of", detail.worker),
            ):
                if value:
                    ui.label(label)
                    ui.label(value)
            ui.label("Tokens")
            ui.label(count(summary.total_tokens))
            ui.label("Cost")
            ui.label(money(summary.cost_nanousd))
            if summary.timings is not None:
                ui.label("Took")
                ui.label(duration(summary.timings["total_ms"]))
        _waterfall(detail)
        ui.label("Attempts").classes("text-weight-medium")
        if not detail.attempts:
            ui.label("The provider was not called.").classes("kw-muted")
        with ui.element("div").classes("kw-history"):
            for number, attempt in enumerate(detail.attempts, start=1):
                _attempt(number, attempt)


def _waterfall(detail: RequestDetail) -> None:
    ui.label("Where its time went").classes("text-weight-medium")
    if not detail.steps:
        ui.label("It is under way, or nobody remembers.").classes("kw-muted")
        return
    bars = [_bar(step, detail.attempts) for step in detail.steps]
    ui.echart(waterfall(bars)).classes("kw-chart").style(f"height: {48 + 30 * len(bars)}px")
    if not detail.exact:
        ui.label("How long it waited is not kept any more; these are its calls.").classes("kw-muted")


def _bar(step: Step, attempts: list[Document]) -> tuple[str, int, int, str]:
    if step.attempt is None:
        return STEPS.get(step.name, step.name), step.start_ms, step.duration_ms, TONES["idle"]
    attempt = attempts[step.attempt - 1]
    tone = OUTCOME_TONES.get(attempt["outcome"], "bad")
    return f"{step.attempt}. {attempt['key_alias']}", step.start_ms, step.duration_ms, TONES[tone]


def _attempt(number: int, attempt: Document) -> None:
    outcome = attempt["outcome"]
    status = "" if attempt["http_status"] is None else f" · {attempt['http_status']}"
    code = f" {attempt['error_code']}" if attempt["error_code"] else ""
    price = money(attempt["cost_nanousd"]) if attempt["price_known"] else "no price known"
    with ui.element("div").classes("kw-history-entry"):
        local_time(iso(attempt["occurred_at"]) or "").classes("kw-muted")
        with ui.element("div"):
            ui.label(outcome.replace("_", " ")).classes(f"kw-chip kw-{OUTCOME_TONES.get(outcome, 'bad')}")
            ui.label(
                f"{number}. {attempt['key_alias']}{status}{code} · {duration(attempt['latency_ms'])}"
            ).classes("kw-note")
            tokens = f"{count(attempt['prompt_tokens'])} in, {count(attempt['completion_tokens'])} out"
            ui.label(f"{tokens} · {price} · {attempt['model']}").classes("kw-note")
