"""Look at training runs, follow them, cancel them."""

import argparse
from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone

from deployments.management.base import SentinelleCommand, system_user
from training import selectors, services
from training.facts import moment, run_facts
from training.following import Follower, time_left
from training.models import RunState, TrainingRun

COLUMNS = ("RUN", "VERSION", "STATE", "STAGE", "DONE", "LAUNCHER", "DATA SET", "REQUESTED", "TOOK")


class Command(SentinelleCommand):
    help = "Look at training runs: list, show, watch, read the log, cancel."
    examples = """Examples:
  manage.py runs list --state running
  manage.py runs show 4f1c
  manage.py runs watch 4f1c --log
  manage.py runs logs 1.2.0 --lines 50
  manage.py runs cancel 4f1c

A run is named by the beginning of its id (4 characters or more) or by its version; a version means
its latest run, sponsor/1.2.0 that of one model where several have it. Ctrl-C ends the watching,
never the run."""

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
        listing = verbs.add_parser("list", help="the most recent runs")
        listing.add_argument("--state", choices=RunState.values, help="only runs in this state")
        listing.add_argument("--model", help="only runs of this model")
        listing.add_argument("--limit", type=int, default=20, metavar="N", help="at most N (20)")
        for verb, words in (
            ("show", "everything about one run, with the times of its states"),
            ("watch", "its progress until it ends; exit status 0 only for a registered version"),
            ("logs", "what its program logged"),
            ("cancel", "end it"),
        ):
            one = verbs.add_parser(verb, help=words)
            one.add_argument("run", help="the beginning of its id, or its version")
            if verb == "watch":
                one.add_argument("--log", action="store_true", help="show the log as it grows")
            elif verb == "logs":
                one.add_argument("--lines", type=_count, metavar="N", help="only the last N lines")

    def handle(self, **options: Any) -> None:
        if options["verb"] == "list":
            self._list(options)
            return
        run = selectors.run_find(options["run"])
        getattr(self, f"_{options['verb']}")(run, options)

    def _list(self, options: dict[str, Any]) -> None:
        runs = selectors.runs_detailed()
        for name, path in (("state", "state"), ("model", "model__name")):
            if options[name]:
                runs = runs.filter(**{path: options[name]})
        rows = [_row(run) for run in runs[: options["limit"]]]
        if not rows:
            what = "There is no such run." if TrainingRun.objects.exists() else "No run yet."
            self.stdout.write(f"{what} Start one: manage.py train --help")
            return
        widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True)]
        for row in (COLUMNS, *rows):
            line = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
            self.stdout.write(line.rstrip())

    def _show(self, run: TrainingRun, _: dict[str, Any]) -> None:
        for name, value in run_facts(run, timezone.now()):
            self.stdout.write(f"{name + ':':<16} {value}")
        self.stdout.write("\nTimeline")
        for event in run.events.all():
            by = f"  by {event.by}" if event.by else ""
            self.stdout.write(
                f"  {moment(event.at)}  {event.state:<10}{by}  {event.message}".rstrip()
            )

    def _watch(self, run: TrainingRun, options: dict[str, Any]) -> None:
        Follower(self, run, with_log=options["log"]).follow()

    def _logs(self, run: TrainingRun, options: dict[str, Any]) -> None:
        lines = selectors.run_log(run).splitlines()
        for line in lines[-options["lines"] :] if options["lines"] else lines:
            self.stdout.write(line)
        if not lines:
            self.stderr.write("The run has logged nothing yet.")

    def _cancel(self, run: TrainingRun, _: dict[str, Any]) -> None:
        services.run_cancel(run, by=system_user(), now=timezone.now())
        run.refresh_from_db()
        if run.is_active:
            self.stdout.write(f"{run} will be cancelled. Watch it: manage.py runs watch {run.pk}")
        else:
            ended = "was cancelled" if run.state == RunState.CANCELLED else f"has {run.state}"
            self.stdout.write(f"Run {run.pk} {ended}.")


def _row(run: TrainingRun) -> tuple[str, ...]:
    left = time_left(run, timezone.now())
    took = str(run.duration).split(".")[0] if run.duration is not None else ""
    return (
        str(run.pk)[:8],
        f"{run.model.name} v{run.version}",
        run.state,
        run.stage,
        f"{run.fraction:.0%}",
        run.launcher,
        run.dataset.name,
        moment(run.created_at),
        f"{took} ({left} left)" if left else took,
    )


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("give a number from 1 on")
    return number
