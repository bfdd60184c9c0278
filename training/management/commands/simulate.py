"""Write simulated transactions to a file."""

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from deployments.management.base import SentinelleCommand
from training.classifier_data import rows_simulate
from training.pipeline.simulate import DEFAULT_DAYS, DEFAULT_START, SUFFIXES, simulate


class Command(SentinelleCommand):
    help = (
        "Write simulated wallet transactions, some of them frauds, for trials and tests; or rows "
        "of a classifier whose definition names a simulator."
    )
    examples = """Examples:
  manage.py simulate demo.csv --rows 200000 --seed 1
  manage.py simulate large.parquet --rows 6400000 --seed 7 --start 2025-01-01 --days 180
  manage.py simulate derbies.csv --model sponsor --rows 10000

Equal arguments give the same file, byte for byte."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("out", type=Path, help=f"the file to write: {', '.join(SUFFIXES)}")
        parser.add_argument("--model", metavar="NAME", help="the classifier to write rows of")
        parser.add_argument("--rows", type=int, required=True)
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument(
            "--start",
            type=parse_date,
            help=f"first day, in UTC ({DEFAULT_START:%Y-%m-%d})",
        )
        parser.add_argument("--days", type=int, help=f"days covered ({DEFAULT_DAYS})")

    def handle(self, **options: Any) -> None:
        if options["model"]:
            self._rows(options)
            return
        days = options["days"]
        made = simulate(
            options["out"],
            options["rows"],
            options["seed"],
            start=options["start"] or DEFAULT_START,
            days=DEFAULT_DAYS if days is None else days,
        )
        self.stdout.write(
            f"{made.path}: {made.rows:,} transactions between {made.wallets:,} wallets, "
            f"{made.frauds:,} frauds ({made.frauds / made.rows:.2%})."
        )

    def _rows(self, options: dict[str, Any]) -> None:
        if options["start"] or options["days"] is not None:
            raise CommandError("--start and --days are of transactions: these rows have no times.")
        model = options["model"]
        made = rows_simulate(model, options["out"], options["rows"], options["seed"])
        self.stdout.write(f"{made.path}: {made.rows:,} rows of {model}.")


def parse_date(text: str) -> datetime:
    """A date, or a date and time, in UTC unless it says otherwise."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a date such as 2026-01-01 ({error})"
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
