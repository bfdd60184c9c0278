"""Make a data set of what Sentinelle recorded."""

import argparse
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.utils import timezone

from deployments.management.base import SentinelleCommand, ShownProgress
from engine.features.catalogue import LABEL_DELAY
from training import snapshots
from training.management.commands.import_dataset import parse_size
from training.management.commands.simulate import parse_date
from training.models import Dataset
from training.pipeline.durations import format_duration, parse_duration
from training.report_traffic import labels_told


def parse_delay(text: str) -> int:
    """The microseconds in a duration such as `7d`."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


class Command(SentinelleCommand):
    help = "Make a data set of the transactions that were scored here and the labels that came."
    examples = """Examples:
  manage.py snapshot_dataset march --days 60
  manage.py snapshot_dataset march --days 60 --dry-run
  manage.py snapshot_dataset spring --from 2026-03-01 --until 2026-06-01
  manage.py snapshot_dataset then --days 60 --as-of 2026-03-01T00:00:00Z --label-delay 14d

What was not known at --as-of is left out. A transaction that was blocked, failed, was cancelled or
is too recent to be labelled, and that nobody has labelled, is never taken for legitimate.
docs/datasets.md has all."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("name", help="the name of the new data set")
        begin = parser.add_mutually_exclusive_group(required=True)
        begin.add_argument("--days", type=int, help="the transactions of the last N days")
        begin.add_argument(
            "--from", dest="since", type=parse_date, metavar="TIME", help="those from then on"
        )
        parser.add_argument(
            "--until", type=parse_date, metavar="TIME", help="those before then (--as-of)"
        )
        parser.add_argument(
            "--as-of",
            type=parse_date,
            metavar="TIME",
            help="only what was known then counts (now)",
        )
        parser.add_argument(
            "--label-delay",
            type=parse_delay,
            metavar="DURATION",
            default=LABEL_DELAY,
            help="how old a transaction without a label must be to count as legitimate "
            f"({format_duration(LABEL_DELAY)})",
        )
        parser.add_argument(
            "--model", default=settings.MODEL_NAME, help=f"whose decisions ({settings.MODEL_NAME})"
        )
        parser.add_argument(
            "--memory-limit",
            type=parse_size,
            metavar="SIZE",
            default=snapshots.MEMORY_LIMIT_MB,
            help="for sorting, such as 800MB (1GB); what does not fit goes to the disk",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="only count the rows; keep nothing"
        )

    def handle(self, **options: Any) -> None:
        now = timezone.now()
        as_of = options["as_of"] or now
        if as_of > now:
            raise CommandError(f"--as-of is {as_of:%Y-%m-%d %H:%M} UTC, which is yet to come.")
        asked = {
            name: options[name] for name in ("days", "since", "until", "label_delay", "model")
        } | {"as_of": as_of, "memory_limit_mb": options["memory_limit"]}
        shown = ShownProgress(self)
        try:
            if options["dry_run"]:
                counts = snapshots.snapshot_count(**asked, progress=shown)
            else:
                dataset = snapshots.snapshot_create(name=options["name"], **asked, progress=shown)
                counts = dataset.summary["traffic"]["counts"]
        finally:
            shown.end()
        for count, words in labels_told(counts):
            self.stdout.write(f"{count:>12}  {words}")
        if not options["dry_run"]:
            self._report(dataset)

    def _report(self, dataset: Dataset) -> None:
        left_out = dataset.summary["traffic"]["attributes_left_out"]
        if left_out:
            self.stdout.write(
                self.style.WARNING(f"Attributes sent as several kinds: {', '.join(left_out)}.")
            )
        self.stdout.write(
            self.style.SUCCESS(
                f"“{dataset.name}”: {dataset.rows:,} transactions from {dataset.first_at:%Y-%m-%d} "
                f"to {dataset.last_at:%Y-%m-%d}, fingerprint {dataset.fingerprint[:12]}. Train on "
                f"it: manage.py train --dataset {dataset.name} --version …"
            )
        )
