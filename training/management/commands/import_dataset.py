"""Import files as a data set."""

import argparse
from datetime import datetime
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from deployments.management.base import SentinelleCommand, ShownProgress
from training.classifier_data import rows_import
from training.datasets import dataset_import
from training.management.commands.simulate import parse_date
from training.models import Dataset
from training.options import megabytes
from training.pipeline.presets import load_preset, preset_names


class _PresetOrList(argparse.Action):
    """Takes a preset's name; given none, lists the presets and ends the command."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        if values is None:
            for name in preset_names():
                print(f"{name:<12} {load_preset(name).description}")
            parser.exit()
        setattr(namespace, self.dest, values)


def parse_size(text: str) -> int:
    """The MB in a size such as `6GB`."""
    try:
        return megabytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


class Command(SentinelleCommand):
    help = "Import CSV (also gzipped) or Parquet files as a data set that models are trained on."
    examples = """Examples:
  manage.py import_dataset demo demo.csv
  manage.py import_dataset paysim paysim.csv.gz --preset paysim --start 2026-01-01
  manage.py import_dataset cards cards.csv --mapping card.toml
  manage.py import_dataset march part-1.csv.gz part-2.csv.gz --on-bad-rows skip
  manage.py import_dataset derbies derbies.csv --model sponsor

A data set is imported whole or not at all. A mapping file says what the columns of your file are;
inspect_dataset proposes one, docs/datasets.md describes them. The columns of a classifier's rows
are those of its definition, see docs/classifiers.md."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("name", help="the name of the new data set")
        parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
        how = parser.add_mutually_exclusive_group()
        how.add_argument("--model", metavar="NAME", help="the classifier whose rows these are")
        how.add_argument(
            "--preset",
            nargs="?",
            choices=preset_names(),
            action=_PresetOrList,
            default="canonical",
            help="a mapping that ships with Sentinelle (canonical); without a name, lists them",
        )
        how.add_argument(
            "--mapping", type=Path, metavar="FILE", help="a mapping of your own, in TOML"
        )
        parser.add_argument(
            "--on-bad-rows",
            choices=("stop", "skip"),
            default="stop",
            help="stop: import nothing if a row is bad (the default); skip: leave bad rows out",
        )
        parser.add_argument(
            "--start", type=parse_date, help="when a mapping counts hours: the first one, in UTC"
        )
        parser.add_argument(
            "--memory-limit",
            type=parse_size,
            metavar="SIZE",
            help="for sorting, such as 800MB (2GB); what does not fit goes to the disk",
        )

    def handle(self, **options: Any) -> None:
        if options["model"] and options["start"]:
            raise CommandError("--start is of mappings that count hours, and not of a classifier.")
        dataset = self._import(options["name"], options["files"], options)
        if dataset.model is None:
            self._report(dataset)
        else:
            self._report_rows(dataset, dataset.model.name)
        self._report_rejects(dataset)

    def _import(self, name: str, files: list[Path], options: dict[str, Any]) -> Dataset:
        shown = ShownProgress(self)
        start: datetime | None = options["start"]
        try:
            if options["model"]:
                return rows_import(
                    name=name,
                    files=files,
                    model=options["model"],
                    on_bad_rows=options["on_bad_rows"],
                    memory_limit_mb=options["memory_limit"],
                    progress=shown,
                )
            return dataset_import(
                name=name,
                files=files,
                preset=options["preset"],
                mapping=options["mapping"],
                on_bad_rows=options["on_bad_rows"],
                start=start,
                memory_limit_mb=options["memory_limit"],
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
        if summary["attributes"]:
            self.stdout.write(f"Attributes: {', '.join(summary['attributes'])}.")
        for target, values in summary["taken_for_false"].items():
            listed = ", ".join(f"“{value}” ({count:,})" for value, count in values.items())
            self.stdout.write(f"{target}: taken for false, not being in positive: {listed}.")
        if summary["ignored_columns"]:
            self.stdout.write(f"Columns left out: {', '.join(summary['ignored_columns'])}.")

    def _report_rows(self, dataset: Dataset, model: str) -> None:
        summary = dataset.summary
        self.stdout.write(
            self.style.SUCCESS(
                f"“{dataset.name}”: {dataset.rows:,} rows of {model}, "
                f"fingerprint {dataset.fingerprint[:12]}."
            )
        )
        for label, count in summary["class_counts"].items():
            self.stdout.write(f"  {count:>9,}  {count / dataset.rows:6.1%}  {label}")
        if summary["ignored_columns"]:
            self.stdout.write(f"Columns left out: {', '.join(summary['ignored_columns'])}.")

    def _report_rejects(self, dataset: Dataset) -> None:
        summary = dataset.summary
        if dataset.rejected:
            faults = summary["reject_counts"].items()
            listed = "\n".join(f"  {count:>9,}  {fault}" for fault, count in faults)
            rejects = summary["path"].rpartition("/")[0] + "/rejects.csv"
            self.stdout.write(
                self.style.WARNING(f"{dataset.rejected:,} rows were left out: {rejects}")
            )
            self.stdout.write(listed)
