"""`manage.py report`: a training run's report on the terminal, or as a file."""

import json
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from deployments.management.base import SentinelleCommand
from training import selectors
from training.metrics import text_table
from training.models import RunState, TrainingRun
from training.report import all_tables, remedy
from training.report_file import report_html


class Command(SentinelleCommand):
    help = "Show the report of a training run, or write it as one HTML file."
    examples = """\
examples:
  manage.py report 1.1.0                        the latest run of this version
  manage.py report sponsor/1.1.0                where other models have that version too
  manage.py report 4f1c0e2a --html report.html  by the beginning of the run's id
  manage.py report 1.1.0 --json > report.json   as the training program wrote it"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "run", help="the id of a run or its beginning (4 characters or more), or a version"
        )
        form = parser.add_mutually_exclusive_group()
        form.add_argument("--html", type=Path, metavar="FILE", help="write one HTML file")
        form.add_argument("--json", action="store_true", help="print the report's JSON")

    def handle(self, **options: Any) -> None:
        run = selectors.run_find(options["run"])
        if options["json"]:
            self._check_report(run)
            self.stdout.write(json.dumps(run.report, indent=2))
        elif options["html"]:
            self._write(run, options["html"])
        else:
            self._show(run)

    def _write(self, run: TrainingRun, path: Path) -> None:
        if run.is_active:
            raise CommandError(
                f"Run {run.pk} is {run.state}: its report comes when it ends. Follow it: "
                f"manage.py runs watch {run.pk}"
            )
        page = report_html(run)
        try:
            path.write_text(page)
        except OSError as error:
            raise CommandError(f"{path} can't be written: {error.strerror}.") from error
        self.stdout.write(f"The report of {run.model.name} v{run.version} is in {path}.")

    def _show(self, run: TrainingRun) -> None:
        self.stdout.write(f"Run {run.pk}: {run}")
        if run.state == RunState.FAILED:
            advice = remedy(run.stage, run.error, run.model.kind)
            self.stdout.write(f"Failed at {run.stage}: {run.error}\n{advice}")
            return
        self._check_report(run)
        for table in all_tables(run.report):
            self.stdout.write("\n" + text_table(table))

    def _check_report(self, run: TrainingRun) -> None:
        if run.report:
            return
        follow = f" Follow it: manage.py runs watch {run.pk}" if run.is_active else ""
        raise CommandError(f"Run {run.pk} is {run.state} and has no report.{follow}")
