"""A run followed on a terminal: its progress as a line that moves, its log as it grows."""

import sys
import time
from datetime import datetime

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from engine.errors import ObjectMissing, StoreUnavailable
from engine.store import PAGE_SECONDS, open_store
from training import selectors, services
from training.launchers.base import LogReader
from training.metrics import text_table
from training.models import RunState, TrainingRun
from training.report import remedy, summary_tables

POLL_SECONDS = 0.5
PATIENCE_SECONDS = 10
BAR = 24


class Follower:
    """Shows a run until it ends: a line that moves on a terminal, a line a stage elsewhere.

    Args:
        with_log: print what the program logs as well.
    """

    def __init__(self, command: BaseCommand, run: TrainingRun, *, with_log: bool = False) -> None:
        self.out, self.err, self.style = command.stdout, command.stderr, command.style
        self.moving = bool(command.stdout.isatty())
        self.run = run
        self.stage = ""
        self.stage_began = time.monotonic()
        self.told = ""
        self.log = LogTail(run) if with_log else None

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
            self.out.write(f"The run goes on. Follow it: manage.py runs watch {self.run.pk}")
            sys.exit(130)
        self._show_log()
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
        self._show_log()
        if self.moving:
            self.out.write(f"\r\033[K{self._line()[:118]}", ending="")
            self.out.flush()
        elif run.message and run.handle == "" and run.message != self.told:
            self.told = run.message
            self.out.write(f"  {run.message}")

    def _line(self) -> str:
        run = self.run
        done = round(run.fraction * BAR)
        bar = "█" * done + "░" * (BAR - done)
        seconds = time.monotonic() - self.stage_began
        left = time_left(run, timezone.now())
        ending = f", {left} left" if left else ""
        return f"{self.stage:<14} {bar} {run.fraction:4.0%}{ending}  {seconds:.0f} s  {run.message}"

    def _show_log(self) -> None:
        if self.log is None:
            return
        fresh = self.log.read()
        if fresh:
            self._clear_line()
            self.out.write(fresh.rstrip("\n"))

    def _clear_line(self) -> None:
        if self.moving:
            self.out.write("\r\033[K", ending="")

    def _end_line(self) -> None:
        if self.moving and self.stage:
            self.out.write("")

    def _explain_waiting(self) -> None:
        if self.told or self.run.state != RunState.QUEUED:
            return
        busy = selectors.runs_running()
        self.told = (
            f"The workers are busy with {busy} other run(s); this one waits its turn."
            if busy
            else "No worker has picked this run up: start one with make run."
        )
        self._end_line()
        self.err.write(self.run.message or self.told)

    def _conclude(self) -> None:
        run = self.run
        if run.state == RunState.CANCELLED:
            raise CommandError("The run was cancelled.")
        if run.state == RunState.FAILED:
            raise CommandError(
                f"The run failed at {run.stage}: {run.error}\n"
                f"{remedy(run.stage, run.error, run.model.kind)}\n"
                f"With the same options again: manage.py train --restart {run.pk} --wait"
            )
        assert run.duration is not None
        assert run.model_version is not None
        for table in summary_tables(run.report):
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


class LogTail:
    """What a run's log gained since it was last read."""

    def __init__(self, run: TrainingRun) -> None:
        self._log = LogReader(open_store(run.folder, seconds=PAGE_SECONDS))

    def read(self) -> str:
        """The new text; empty when there is none, or the log can't be read now."""
        try:
            return self._log.read()
        except (StoreUnavailable, ObjectMissing):
            return ""


def time_left(run: TrainingRun, now: datetime) -> str:
    """How long a run still takes, in words; empty when nobody can say."""
    end = selectors.run_expected_end(run, now)
    if end is None:
        return ""
    seconds = max(round((end - now).total_seconds()), 0)
    if seconds < 90:
        return f"about {max(seconds, 1)} s"
    if seconds < 5400:
        return f"about {round(seconds / 60)} min"
    return f"about {seconds / 3600:.1f} h"
