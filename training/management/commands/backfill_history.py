"""Load a data set's transactions as history."""

import argparse
from typing import Any

from django.core.management.base import CommandError
from django.db import OperationalError
from django.utils import timezone

from deployments.management.base import SentinelleCommand, ShownProgress
from training.backfill import history_backfill
from training.management.commands.simulate import parse_date


class Command(SentinelleCommand):
    help = "Load a data set's transactions as history, so that the first decision knows them."
    examples = """Examples:
  manage.py backfill_history march
  manage.py backfill_history all --from 2025-06-01 --until 2026-01-01

A load that was interrupted goes on where it was when it is started again. docs/operations.md says
more."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("dataset", help="name of an imported data set")
        parser.add_argument(
            "--from",
            dest="since",
            type=parse_date,
            help="only transactions made from then on (UTC)",
        )
        parser.add_argument("--until", type=parse_date, help="only those made before then (UTC)")

    def handle(self, **options: Any) -> None:
        shown = ShownProgress(self)
        try:
            loaded = history_backfill(
                dataset=options["dataset"],
                now=timezone.now(),
                since=options["since"],
                until=options["until"],
                progress=shown,
            )
        except OperationalError as error:
            raise CommandError(
                f"The database did not answer in time ({str(error).strip()}). What was loaded "
                "stays: run the same command again."
            ) from error
        finally:
            shown.end()
        before = f" ({loaded.before:,} were loaded before)" if loaded.before else ""
        self.stdout.write(
            self.style.SUCCESS(
                f"“{options['dataset']}” is history: {loaded.rows:,} transactions{before}, "
                f"{loaded.frauds:,} confirmed frauds among them."
            )
        )
        if loaded.unknown_frauds:
            self.stdout.write(
                f"{loaded.unknown_frauds:,} frauds are left out: their label is not known yet."
            )
