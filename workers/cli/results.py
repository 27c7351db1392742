"""`keyway results`: what the journal keeps of a request, for whom the reply did not reach."""

import json
from typing import Annotated

import typer

from contracts.messages import GenerationResult
from infra.errors import NotFoundError
from infra.stored_results import stored_result
from infra.vault import Vault
from workers.cli.generate import answer_text, summary
from workers.cli.session import JsonOption, err, out, platform, print_json, run
from workers.generation.result import REPEATED

app = typer.Typer(help="Results that are kept for a while after their requests.", no_args_is_help=True)


@app.command()
def show(
    automation: Annotated[str, typer.Argument(help="The automation's id.")],
    request_id: Annotated[str, typer.Argument(help="The request's id, its message_id.")],
    as_json: JsonOption = False,
) -> None:
    """Show a request's result, decrypted, as its automation would get it when it asks again."""

    async def work() -> tuple[str, bytes | None]:
        async with platform() as p:
            stored = await stored_result(p.mongo, Vault(p.settings.master_keys), automation, request_id)
            if stored is None:
                kept = p.settings.result_ttl_s
                raise NotFoundError(
                    f"nothing is kept of {automation}/{request_id}: "
                    f"there was no such request, or it ended over {kept} s ago"
                )
            return stored

    status, kept = run(work())
    if kept is None:
        err.print(f"{automation}/{request_id} is {status}: it has no result yet.")
        raise typer.Exit(1)
    result = GenerationResult.model_validate_json(kept + REPEATED)
    if as_json:
        print_json(result.model_dump(mode="json"))
    elif result.error is not None:
        err.print(f"failed: {result.error.code}: {result.error.message}", markup=False, highlight=False)
    else:
        text = answer_text(result) or json.dumps(result.response, indent=2)
        out.print(text, markup=False, highlight=False, soft_wrap=True)
        err.print(summary(result), style="dim", highlight=False, soft_wrap=True)
