"""`keyway generate`: one request through the queue, its answer on the screen."""

from typing import TYPE_CHECKING, Annotated

import typer

from infra.money import usd
from workers.cli.session import JsonOption, err, load_settings, out, print_json, run

if TYPE_CHECKING:
    from contracts.messages import GenerationResult


def generate(
    automation: Annotated[str, typer.Argument(help="As which automation to ask.")],
    prompt: Annotated[str, typer.Argument(help="What to ask.")],
    model: Annotated[str, typer.Option(help="The provider's model.")] = "gpt-4o-mini",
    user: Annotated[str | None, typer.Option(help="Whom the usage is booked on.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that the whole may take.")] = 60,
    as_json: JsonOption = False,
) -> None:
    """Send one request through the queue and print the answer."""
    from contracts import Keyway

    settings = load_settings()

    async def work() -> "GenerationResult":
        url = settings.amqp_url.get_secret_value()
        async with Keyway(url, automation_id=automation, heartbeat_s=0) as keyway:
            return await keyway.generate(
                "/chat/completions",
                model=model,
                messages=[{"role": "user", "content": prompt}],
                user=user,
                timeout=timeout,
            )

    result = run(work())
    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        out.print(answer_text(result), highlight=False, markup=False)
        err.print(summary(result), style="dim", highlight=False, soft_wrap=True)


def answer_text(result: "GenerationResult") -> str:
    """The text of a chat completion's first choice."""
    choices = (result.response or {}).get("choices") or [{}]
    return str(choices[0].get("message", {}).get("content") or "")


def summary(result: "GenerationResult") -> str:
    """One line on what a result took."""
    tokens, timings = result.usage, result.timings
    return " · ".join(
        (
            str(result.model),
            f"key {result.key_alias}",
            f"{tokens.prompt_tokens} + {tokens.completion_tokens} tokens",
            usd(result.cost_nanousd),
            f"{timings.total_ms} ms, {timings.upstream_ms} of them at the provider",
        )
    )
