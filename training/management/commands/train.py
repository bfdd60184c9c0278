"""Create a training run, and follow it on request."""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from deployments.management.base import SentinelleCommand, system_user
from training import selectors, services
from training.management.commands.simulate import parse_date
from training.metrics import metric_tables, text_table
from training.models import RunState, TrainingRun
from training.options import COUNTS, DATES, FIELDS, NUMBERS, describe_options, read_options
from training.pipeline.spec import decode_options

POLL_SECONDS = 0.5
PATIENCE_SECONDS = 10
BAR = 24
TYPES: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(DATES, parse_date),
    **dict.fromkeys(NUMBERS, float),
    **dict.fromkeys(COUNTS, int),
}
METAVARS = {
    **dict.fromkeys(DATES, "DATE"),
    "label_delay": "DURATION",
    "without": "GROUPS",
    **dict.fromkeys(COUNTS, "N"),
    "budget": "MINUTES",
    **dict.fromkeys(("review_rate", "block_rate"), "SHARE"),
    **dict.fromkeys(("cost_review", "cost_block_legit"), "COST"),
    "memory_limit": "SIZE",
}

OF_NEW_RUNS = (
    "dataset", "semver", "model", "rules", "sample", "seed", *(option.name for option in FIELDS)
)  # fmt: skip


class Command(SentinelleCommand):
    help = "Train a version on an imported data set. A worker does it; --wait follows it."
    examples = """Examples:
  manage.py train --dataset demo --version 1.0.0 --wait
  manage.py train --dataset demo --version 1.1.0-trial --sample 50000 --rules none
  manage.py train --dataset demo --version 1.2.0 --search 20 --budget 30 --wait
  manage.py train --dataset cards --version 2.0.0 --label-delay 7d \
      --train-until 2026-03-01 --validate-until 2026-03-15 --test-until 2026-04-15
  manage.py train --dataset cards --version 2.1.0 --review-rate 0.005 --block-rate 0.0005
  manage.py train --dataset cards --version 2.2.0 --cost-review 4 --cost-block-legit 25
  manage.py train --dataset paysim --version 3.0.0 --rules none --without labels,balances
  manage.py train --restart 4f1c0e2a-5d2b-4b1e-9a55-0c6f6a3f5d11 --wait

Time goes  train | validation | label delay | test.  Nothing that becomes known after the cut-off
decides what is fitted or tuned. docs/training.md explains each option."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--dataset", help="name of an imported data set")
        parser.add_argument("--version", dest="semver", help="the version to make, such as 1.0.0")
        parser.add_argument("--model", help=f"by default {settings.MODEL_NAME}")
        parser.add_argument("--rules", help="rule set, or none; by default the one that serves")
        parser.add_argument("--sample", type=int, help="only the most recent N rows")
        parser.add_argument("--seed", type=int, help="of all that is drawn at random (0)")
        for option in FIELDS:
            parser.add_argument(
                f"--{option.name.replace('_', '-')}",
                type=TYPES.get(option.name, str),
                metavar=METAVARS.get(option.name),
                help=option.help.replace("%", "%%"),
            )
        parser.add_argument("--restart", type=UUID, metavar="RUN", help="start a run again")
        parser.add_argument("--follow", type=UUID, metavar="RUN", help="wait for a run that exists")
        parser.add_argument("--wait", action="store_true", help="follow the run until it ends")

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        # Django's own --version tells its version; here it is the version to train.
        return super().create_parser(prog_name, subcommand, conflict_handler="resolve", **kwargs)

    def handle(self, **options: Any) -> None:
        run = self._run(options)
        if options["wait"] or options["follow"]:
            Follower(self, run).follow()
        else:
            self.stdout.write(f"Follow it: manage.py train --follow {run.pk}")

    def _run(self, options: dict[str, Any]) -> TrainingRun:
        _refuse_ignored(options)
        if options["follow"]:
            return selectors.run_by_id(options["follow"])
        if options["restart"]:
            earlier = selectors.run_by_id(options["restart"])
            run = services.run_restart(earlier, requested_by=system_user())
        elif options["dataset"] and options["semver"]:
            run = services.run_create(
                dataset=options["dataset"],
                version=options["semver"],
                model=options["model"] or settings.MODEL_NAME,
                rules=options["rules"],
                sample=options["sample"],
                seed=options["seed"] or 0,
                options=read_options({option.name: options[option.name] for option in FIELDS}),
                requested_by=system_user(),
            )
        else:
            raise CommandError("Give --dataset and --version, or --restart, or --follow.")
        data = run.dataset
        part = f"the last {run.sample:,} of " if run.sample else ""
        self.stdout.write(
            f"Run {run.pk}: {run.model.name} v{run.version} on “{data.name}” ({part}{data.rows:,} "
            f"transactions, {data.fraud_rate:.2%} frauds), rules “{run.rule_set.name}”."
        )
        for name, value in describe_options(decode_options(run.options)):
            self.stdout.write(f"  {name}: {value}")
        return run


def _refuse_ignored(options: dict[str, Any]) -> None:
    """A run that exists has its options; CommandError for another given beside it."""
    instead = next((name for name in ("follow", "restart") if options[name]), None)
    if instead is None:
        return
    given = [name for name in (*OF_NEW_RUNS, "restart") if options[name] is not None]
    names = ["version" if name == "semver" else name for name in given if name != instead]
    if names:
        written = ", ".join(f"--{name.replace('_', '-')}" for name in names)
        raise CommandError(
            f"--{instead} takes a run as it is, without {written}. For other options start a new "
            "run, with --dataset and --version."
        )


class Follower:
    """Shows a run until it ends: a line that moves on a terminal, a line a stage elsewhere."""

    def __init__(self, command: BaseCommand, run: TrainingRun) -> None:
        self.out, self.err, self.style = command.stdout, command.stderr, command.style
        self.moving = bool(command.stdout.isatty())
        self.run = run
        self.stage = ""
        self.stage_began = time.monotonic()
        self.told_to_wait = False

    def follow(self) -> None:
        """Return when the run has succeeded; CommandError when it has not."""
        began = time.monotonic()
        try:
            while self.run.is_active:
                self._show()
                if time.monotonic() - began > PATIENCE_SECONDS:
                    self._explain_waiting()
                time.sleep(POLL_SECONDS)
                self._look()
        except KeyboardInterrupt:
            self._end_line()
            self.out.write(f"The run goes on. Follow it: manage.py train --follow {self.run.pk}")
            sys.exit(130)
        self._end_line()
        self._conclude()

    def _look(self) -> None:
        now = timezone.now()
        if self.run.lease_until is not None and self.run.lease_until < now:
            services.runs_fail_abandoned(now=now)  # beat may have died with the worker
        self.run = selectors.run_by_id(self.run.pk)

    def _show(self) -> None:
        run = self.run
        stage = run.stage or run.state
        if stage != self.stage:
            self._end_line()
            self.stage, self.stage_began = stage, time.monotonic()
            if not self.moving:
                self.out.write(stage)
                self.out.flush()
        if self.moving:
            done = round(run.fraction * BAR)
            bar = "█" * done + "░" * (BAR - done)
            seconds = time.monotonic() - self.stage_began
            line = f"{stage:<14} {bar} {run.fraction:4.0%} of all {seconds:5.0f} s  {run.message}"
            self.out.write(f"\r\033[K{line[:110]}", ending="")
            self.out.flush()

    def _end_line(self) -> None:
        if self.moving and self.stage:
            self.out.write("")

    def _explain_waiting(self) -> None:
        if self.told_to_wait or self.run.state != RunState.QUEUED:
            return
        self.told_to_wait = True
        self._end_line()
        busy = selectors.runs_running()
        if busy:
            self.err.write(f"The worker is busy with {busy} other run(s); this one waits its turn.")
        else:
            self.err.write("No worker has picked this run up: start one with make run.")

    def _conclude(self) -> None:
        run = self.run
        if run.state == RunState.CANCELLED:
            raise CommandError("The run was cancelled.")
        if run.state == RunState.FAILED:
            raise CommandError(
                f"The run failed at {run.stage}: {run.error}\n"
                f"Start it again: manage.py train --restart {run.pk} --wait"
            )
        assert run.duration is not None
        assert run.model_version is not None
        for table in metric_tables(run.report["metrics"]):
            self.out.write(text_table(table) + "\n")
        seconds = run.duration.total_seconds()
        self.out.write(
            self.style.SUCCESS(
                f"{run.model.name} v{run.version} is registered, after {seconds:.0f} s."
            )
        )
        if run.model_version.deployable:
            self.out.write(f"Let it serve: manage.py promote {run.model.name} {run.version}")
        else:
            self.out.write("It was trained on a sample, so it can be looked at but not promoted.")
