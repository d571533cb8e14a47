"""Options that several commands share, and how their text is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from marginal_sdg.cli.inputs import FILE

Command = TypeVar("Command", bound=Callable[..., Any])


class NumberOfBins(click.ParamType[tuple[str, int]]):
    """A column's name, an equals sign and a number."""

    name = "column=number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """The name and the number."""
        column, equals, number = str(value).rpartition("=")
        if not equals or not number.isdecimal():
            self.fail(f"{value!r} is not a column and a number, such as income=16", param, ctx)
        return column, int(number)


class WholeNumber(click.ParamType[int]):
    """A whole number from 1 to 1e15, also as 1e6."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number, exactly."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not (1 <= number <= 1e15 and number.is_integer()):
            self.fail(f"{value!r} is not a whole number from 1 to 1e15, such as 500 or 1e6", param, ctx)
        return int(number)


class Rounds(click.ParamType[int | str]):
    """A number of rounds, or ``adaptive``."""

    name = "rounds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """A whole number or the word."""
        if value == "adaptive":
            return "adaptive"
        number: int = click.IntRange(0).convert(value, param, ctx)
        return number


def mechanism_of(names: Iterable[str]) -> Callable[[Command], Command]:
    """Which method."""
    return click.option(
        "--mechanism", type=click.Choice(list(names)), default="aim", show_default=True, help="The method."
    )


def of_a_fit(command: Command) -> Command:
    """What decides how a budget is spent."""
    for option in reversed(
        [
            click.option("--delta", type=float, default=1e-5, show_default=True, help="Of (epsilon, delta)."),
            click.option("--rounds", type=Rounds(), help="A number (default 10), or adaptive."),
            click.option(
                "--workload",
                default="64",
                show_default=True,
                help="Marginals to answer well: a number of random 3-way ones, 'age,pay;sex,job', or a YAML file.",
            ),
            click.option("--target", help="A column to predict: marginals with it weigh more."),
            click.option(
                "--records-per-person", type=click.IntRange(1), default=1, show_default=True, help="Whom to protect."
            ),
            click.option(
                "--known",
                type=FILE,
                multiple=True,
                help="A marginal that is public, as a CSV or Parquet file: columns, count, and standard_error unless "
                "exact. Costs nothing. May be repeated.",
            ),
            click.option(
                "--impossible",
                metavar="CONDITION",
                multiple=True,
                help="No such rows exist, e.g. 'age < 16 and job == judge', and none will be drawn. May be repeated.",
            ),
            click.option(
                "--adaptive-bins",
                type=NumberOfBins(),
                multiple=True,
                metavar="COLUMN=NUMBER",
                help="Merge a column's bins into that many of about equal count, which is paid for. May be repeated.",
            ),
            click.option("--bins-share", type=float, help="Share of the budget for adaptive bins, e.g. 0.05."),
            click.option("--max-model-mb", type=float, default=80.0, show_default=True, help="Cap on the model."),
        ]
    ):
        command = option(command)
    return command


def of_rows(command: Command) -> Command:
    """Which synthetic rows to draw."""
    for option in reversed(
        [
            click.option("--rows", type=click.IntRange(0), help="Default: the model's own, noisy number."),
            click.option("--where", metavar="CONDITION", help="Only such rows, e.g. 'age > 60 and sex == Female'."),
            click.option("--seed", type=click.IntRange(0), help="For a repeatable experiment; no real release."),
            click.option("--out", type=FILE, required=True, help="The synthetic table: .csv or .parquet."),
        ]
    ):
        command = option(command)
    return command
