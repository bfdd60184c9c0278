"""Score a file of transactions into a file of scores."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.management.base import CommandError

from deployments.management.base import SentinelleCommand, ShownProgress
from training.file_scoring import FileScored, Subject, file_score
from training.management.commands.simulate import parse_date
from training.pipeline.presets import preset_names

if TYPE_CHECKING:
    from training.pipeline.unfamiliar import Unfamiliar

TOP_REASONS = 8
OF_FILES = ("preset", "mapping", "start", "on_bad_rows")


class Command(SentinelleCommand):
    help = "Score transactions in order of time as /score would have, from an empty history."
    examples = """Examples:
  manage.py score march.csv.gz --out march-scores.parquet
  manage.py score cards.csv --mapping card.toml --out scores.parquet --version 1.2.0 --rules none
  manage.py score --dataset demo --out demo-scores.parquet --features

Nothing that is scored here enters history. Labels are neither needed nor looked at unless --labels
is given. docs/scoring.md describes the columns of OUT."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
        parser.add_argument("--dataset", metavar="NAME", help="an imported data set, not a file")
        parser.add_argument("--out", type=Path, required=True, help="the Parquet file to write")
        parser.add_argument("--force", action="store_true", help="write over OUT")
        how = parser.add_mutually_exclusive_group()
        how.add_argument("--preset", choices=preset_names(), help="how FILE is read (canonical)")
        how.add_argument("--mapping", type=Path, help="how FILE is read: a mapping file, in TOML")
        parser.add_argument(
            "--start", type=parse_date, help="when a mapping counts hours: the first one, in UTC"
        )
        parser.add_argument(
            "--on-bad-rows",
            choices=("stop", "skip"),
            help="stop: score nothing if a row is bad (the default); skip: leave bad rows out",
        )
        parser.add_argument("--model", default=settings.MODEL_NAME)
        parser.add_argument("--version", dest="semver", help="by default the champion")
        parser.add_argument("--rules", help="rule set, or none; by default the one that serves")
        parser.add_argument(
            "--labels",
            action="store_true",
            help="let history know the labels of FILE, each from when it was known",
        )
        parser.add_argument("--features", action="store_true", help="write every feature too")

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        # Django's own --version tells its version; here it is the version to score with.
        return super().create_parser(prog_name, subcommand, conflict_handler="resolve", **kwargs)

    def handle(self, **options: Any) -> None:
        if bool(options["files"]) == bool(options["dataset"]):
            raise CommandError("Give FILE, or --dataset.")
        subject = _subject(options)
        shown = ShownProgress(self)
        try:
            scored = file_score(
                subject,
                options["out"],
                model=options["model"],
                version=options["semver"],
                rules=options["rules"],
                labels=options["labels"],
                features=options["features"],
                force=options["force"],
                progress=shown,
            )
        finally:
            shown.end()
        self._report(scored, options["out"])

    def _report(self, scored: FileScored, out: Path) -> None:
        summary = scored.summary
        version = scored.version
        self.stdout.write(
            self.style.SUCCESS(
                f"{out}: {summary.rows:,} transactions scored by {version.model.name} "
                f"v{version.version} with rules “{scored.rule_set.name}”, in "
                f"{summary.seconds:.1f} s ({summary.rows / summary.seconds:,.0f} rows/s)."
            )
        )
        for decision, count in summary.decisions.items():
            self.stdout.write(f"  {decision:<8}{count:>12,}  {count / summary.rows:8.3%}")
        reasons = list(summary.reasons.items())
        for reason, count in reasons[:TOP_REASONS]:
            self.stdout.write(f"  {count:>12,}  {reason}")
        if len(reasons) > TOP_REASONS:
            self.stdout.write(f"  … and {len(reasons) - TOP_REASONS} more reasons")
        for warning in _warnings(summary.unfamiliar):
            self.stdout.write(self.style.WARNING(warning))
        if scored.rejected:
            self.stdout.write(
                self.style.WARNING(f"{scored.rejected:,} rows were left out: {scored.rejects}")
            )


def _subject(options: dict[str, Any]) -> Subject:
    how = {name: options[name] for name in OF_FILES if options[name] is not None}
    if options["dataset"] and how:
        given = ", ".join(f"--{name.replace('_', '-')}" for name in how)
        raise CommandError(f"{given}: an imported data set is read as it was imported.")
    return Subject(files=options["files"], dataset=options["dataset"], **how)


def _warnings(unfamiliar: "Unfamiliar") -> Iterator[str]:
    if unfamiliar.absent:
        yield (
            "The version reads what no row has, and takes it as unknown: "
            f"{', '.join(unfamiliar.absent)}."
        )
    for name, share in unfamiliar.unseen.items():
        yield f"In {share:.1%} of the rows, {name} is a value that the version has no input for."
