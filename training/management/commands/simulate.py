"""Write simulated transactions to a file."""

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deployments.management.base import SentinelleCommand
from training.pipeline.simulate import DEFAULT_DAYS, DEFAULT_START, SUFFIXES, simulate


class Command(SentinelleCommand):
    help = "Write simulated wallet transactions, some of them frauds, for trials and tests."
    examples = """Examples:
  manage.py simulate demo.csv --rows 200000 --seed 1
  manage.py simulate large.parquet --rows 6400000 --seed 7 --start 2025-01-01 --days 180

Equal arguments give the same file, byte for byte."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("out", type=Path, help=f"the file to write: {', '.join(SUFFIXES)}")
        parser.add_argument("--rows", type=int, required=True)
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument(
            "--start",
            type=parse_date,
            default=DEFAULT_START,
            help="first day, in UTC (%(default)s)",
        )
        parser.add_argument(
            "--days", type=int, default=DEFAULT_DAYS, help="days covered (%(default)s)"
        )

    def handle(self, **options: Any) -> None:
        made = simulate(
            options["out"],
            options["rows"],
            options["seed"],
            start=options["start"],
            days=options["days"],
        )
        self.stdout.write(
            f"{made.path}: {made.rows:,} transactions between {made.wallets:,} wallets, "
            f"{made.frauds:,} frauds ({made.frauds / made.rows:.2%})."
        )


def parse_date(text: str) -> datetime:
    """A date, or a date and time, in UTC unless it says otherwise."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a date such as 2026-01-01 ({error})"
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
