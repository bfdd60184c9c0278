"""Import files as a data set."""

import argparse
from datetime import datetime
from pathlib import Path
from typing import Any

from deployments.management.base import SentinelleCommand, ShownProgress
from training import services
from training.management.commands.simulate import parse_date
from training.models import Dataset
from training.pipeline.presets import preset_names


class Command(SentinelleCommand):
    help = "Import CSV (also gzipped) or Parquet files as a data set that models are trained on."
    examples = """Examples:
  manage.py import_dataset demo demo.csv --preset canonical
  manage.py import_dataset paysim paysim.csv.gz --preset paysim --start 2026-01-01
  manage.py import_dataset march part-1.csv.gz part-2.csv.gz --on-bad-rows skip

A data set is imported whole or not at all. docs/datasets.md describes the columns."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("name", help="the name of the new data set")
        parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
        parser.add_argument("--preset", choices=preset_names(), default="canonical")
        parser.add_argument(
            "--on-bad-rows",
            choices=("stop", "skip"),
            default="stop",
            help="stop: import nothing if a row is bad (the default); skip: leave bad rows out",
        )
        parser.add_argument(
            "--start", type=parse_date, help="when a preset counts hours: the first one, in UTC"
        )

    def handle(self, **options: Any) -> None:
        dataset = self._import(options["name"], options["files"], options)
        self._report(dataset)

    def _import(self, name: str, files: list[Path], options: dict[str, Any]) -> Dataset:
        shown = ShownProgress(self)
        start: datetime | None = options["start"]
        try:
            return services.dataset_import(
                name=name,
                files=files,
                preset=options["preset"],
                on_bad_rows=options["on_bad_rows"],
                start=start,
                progress=shown,
            )
        finally:
            shown.end()

    def _report(self, dataset: Dataset) -> None:
        summary = dataset.summary
        share = dataset.frauds / dataset.rows
        self.stdout.write(
            self.style.SUCCESS(
                f"“{dataset.name}”: {dataset.rows:,} transactions from {dataset.first_at:%Y-%m-%d} "
                f"to {dataset.last_at:%Y-%m-%d}, {dataset.frauds:,} frauds ({share:.2%}), "
                f"fingerprint {dataset.fingerprint[:12]}."
            )
        )
        if summary["ignored_columns"]:
            self.stdout.write(f"Columns left out: {', '.join(summary['ignored_columns'])}.")
        if dataset.rejected:
            faults = summary["reject_counts"].items()
            listed = "\n".join(f"  {count:>9,}  {fault}" for fault, count in faults)
            rejects = Path(summary["path"]).with_name("rejects.csv")
            self.stdout.write(
                self.style.WARNING(f"{dataset.rejected:,} rows were left out: {rejects}")
            )
            self.stdout.write(listed)
