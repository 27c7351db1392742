"""`keyway prices`: what models cost, where it is not known or not as listed."""

from typing import Annotated

import typer

from infra.money import nanousd, usd
from infra.mongo import Document
from infra.price_registry import PriceRegistry
from infra.prices import Price
from workers.cli.key_facts import moment
from workers.cli.session import JsonOption, err, platform, print_json, print_table, run

app = typer.Typer(
    help="Prices set by hand, in place of the list of genai-prices. What is booked already stays as it is.",
    no_args_is_help=True,
)

Model = Annotated[str, typer.Argument(help="As answers name it; without its date for all of its versions.")]
FIELDS = ("input", "output", "cached")


@app.command("set")
def set_(
    model: Model,
    input_: Annotated[str, typer.Option("--input", help="USD per million input tokens.")],
    output: Annotated[str, typer.Option("--output", help="USD per million output tokens.")],
    cached: Annotated[
        str | None, typer.Option("--cached", help="USD per million cached input tokens; default: as input.")
    ] = None,
) -> None:
    """Set a model's price, for calls that end from now on."""
    price = Price(nanousd(input_), nanousd(output), nanousd(input_ if cached is None else cached))

    async def work() -> None:
        async with platform() as p:
            replaced = await PriceRegistry(p.mongo, p.actor).set(model, price)
            before = None if replaced is None else _facts(replaced)
            await p.audit.write(p.actor, "price.set", model, before=before, after=_facts(price))

    run(work())
    err.print(f"Set the price of {model}, in force within seconds. What is booked already stays as it is.")


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List the prices that were set by hand."""

    async def work() -> list[Document]:
        async with platform() as p:
            return await PriceRegistry(p.mongo, p.actor).list()

    prices = run(work())
    if as_json:
        print_json(
            [
                {"model": price["_id"], **{f"{field}_nanousd_per_million": price[field] for field in FIELDS}}
                for price in prices
            ]
        )
    elif not prices:
        err.print("No prices were set by hand: all are those of genai-prices.")
    else:
        rows = [
            [price["_id"], *(usd(price[field]) for field in FIELDS), moment(price["changed_at"])]
            for price in prices
        ]
        print_table("USD per million tokens", ["model", "input>", "output>", "cached>", "set (UTC)"], rows)


@app.command()
def remove(model: Model) -> None:
    """Go by genai-prices again for a model."""

    async def work() -> None:
        async with platform() as p:
            before = await PriceRegistry(p.mongo, p.actor).remove(model)
            await p.audit.write(p.actor, "price.removed", model, before=_facts(before))

    run(work())
    err.print(f"Removed the price of {model}.")


def _facts(price: Price) -> dict[str, int]:
    """What the audit log is told of a price."""
    return {f"{field}_nanousd_per_million": getattr(price, field) for field in FIELDS}
