"""`manage.py import_labels`: record the labels of files."""

from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import OperationalError
from django.utils import timezone

from deployments.management.base import SentinelleCommand, ShownProgress, system_user
from scoring.label_import import SHOWN, Imported, labels_import


class Command(SentinelleCommand):
    help = (
        "Record labels (which transactions were fraud) from CSV, also gzipped, or Parquet files. "
        "They count from the next transaction that is scored; docs/labels.md says how."
    )
    examples = """\
columns:
  transaction_id     of a transaction that was scored, or that may still come
  label or is_fraud  fraud or legitimate, true or false, 1 or 0
  known_at           when it became known, such as 2026-01-31T12:00:00Z; without a zone it is UTC
  source             optional: chargeback, analyst, …
  note               optional: at most 1,000 characters

examples:
  manage.py import_labels chargebacks.csv
  manage.py import_labels january.parquet february.csv.gz --source chargeback
  manage.py import_labels export.csv --on-bad-rows skip

A transaction may have several labels, and the last one received counts. A row that was
received before, the same in every column, changes nothing: after an interruption, or when a
file has grown, import the same file again."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
        parser.add_argument("--source", help="the source of rows that name none")
        parser.add_argument(
            "--on-bad-rows",
            choices=("stop", "skip"),
            default="stop",
            help="stop: import nothing if a row is bad (the default); skip: leave bad rows out",
        )

    def handle(self, **options: Any) -> None:
        shown = ShownProgress(self)
        try:
            result = labels_import(
                options["files"],
                stated_by=system_user(),
                clock=timezone.now,
                progress=shown,
                source=options["source"],
                on_bad_rows=options["on_bad_rows"],
            )
        except OperationalError as error:
            raise CommandError(
                f"The database did not answer in time ({str(error).strip()}). What was recorded "
                "stays: run the same command again."
            ) from error
        finally:
            shown.end()
        self._report(result)

    def _report(self, result: Imported) -> None:
        again = f", {result.repeated:,} had been received before" if result.repeated else ""
        self.stdout.write(
            self.style.SUCCESS(f"{_counted(result.recorded, 'label')} recorded{again}.")
        )
        if result.unknown:
            some = ", ".join(list(result.first_unknown)[:SHOWN])
            more = ", …" if len(result.first_unknown) > SHOWN else ""
            self.stdout.write(
                f"{_counted(result.unknown, 'label')} of transactions never seen here, kept in "
                f"case they come: {some}{more}"
            )
        if result.ignored_columns:
            self.stdout.write(f"Columns left out: {', '.join(result.ignored_columns)}.")
        if result.bad_rows.count:
            left_out = _counted(result.bad_rows.count, "row")
            self.stdout.write(self.style.WARNING(f"{left_out} left out:"))
            self.stdout.write(str(result.bad_rows))


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
