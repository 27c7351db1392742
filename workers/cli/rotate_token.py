"""`keyway automations rotate-token`: a new service token, with an overlap in which the old one works too."""

from typing import TYPE_CHECKING, Annotated

import typer

from workers.cli.session import JsonOption, err, out, platform, print_json, run

if TYPE_CHECKING:
    from infra.service_tokens import Rotation


def rotate_token(
    name: Annotated[str, typer.Argument(help="The automation's id.")],
    finish: Annotated[
        bool, typer.Option("--finish", help="End the overlap: the old token is refused from now on.")
    ] = False,
    now: Annotated[
        bool, typer.Option("--now", help="Without an overlap, for a token that leaked: the old one is out.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Give an automation a new service token, which is printed once; the old one works until --finish."""
    if finish and now:
        raise typer.BadParameter("--finish or --now, not both")
    if finish:
        _report_finished(name, run(_finish(name)), as_json)
    elif now:
        _replace(name, as_json)
    else:
        _report_begun(name, run(_begin(name)), as_json)


def _replace(name: str, as_json: bool) -> None:
    """Begin and finish; where only the first could be done, its token is told all the same."""
    rotation = run(_begin(name))
    try:
        closed = run(_finish(name))
    except Exception:
        _report_begun(name, rotation, as_json)
        raise
    token = rotation.token.get_secret_value()
    if as_json:
        print_json({"automation_id": name, "service_token": token, "user": name, "state": "finished"})
        return
    out.print(token, highlight=False, soft_wrap=True)
    _say(f"That is {name}'s service token. It is not shown again. {_cut(closed)}")


def _report_begun(name: str, rotation: "Rotation", as_json: bool) -> None:
    token = rotation.token.get_secret_value()
    if as_json:
        state = {"user": rotation.user, "state": "begun"}
        print_json({"automation_id": name, "service_token": token, **state})
        return
    out.print(token, highlight=False, soft_wrap=True)
    if rotation.replaced:
        _say("A rotation was under way: its token works no more, this one does instead.")
    _say(f"That is {name}'s new service token. It is not shown again. The old one works too for now.")
    _say("Keyway's Python client takes it in place of the old one.")
    _say(f"Other programs use it as user {rotation.user} until the rotation is finished.")
    _say(f"When every program has it: keyway automations rotate-token {name} --finish")


def _report_finished(name: str, closed: int, as_json: bool) -> None:
    if as_json:
        print_json({"automation_id": name, "service_token": None, "user": name, "state": "finished"})
        return
    _say(f"{name} has its new service token, as user {name}. {_cut(closed)}")


def _cut(closed: int) -> str:
    were = "1 connection" if closed == 1 else f"{closed} connections"
    return f"The old one is refused, and {were} of it closed."


def _say(line: str) -> None:
    err.print(line, highlight=False, soft_wrap=True)


async def _begin(name: str) -> "Rotation":
    async with platform() as p, p.automation_changes() as changes:
        return await changes.begin_rotation(name)


async def _finish(name: str) -> int:
    async with platform() as p, p.automation_changes() as changes:
        return await changes.finish_rotation(name)
