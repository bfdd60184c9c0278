"""A worker that kills itself at one change of a run's state, for test_kills.py.

Reads tasks from its standard input, one JSON object a line, and does each in a process of its own,
which is forked because starting Django takes a second. Its answer is how that process ended.

    {"do": "execute", "run": "…", "launcher": "detached", "place": "…",
     "at": ["queued", "starting"], "when": "before"}

`when` is before or after the change is committed. Nothing in the code of training knows of this:
`transitions` is patched from here.
"""

import json
import os
import signal
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

import django

PATIENCE_SECONDS = 30.0


def main() -> None:
    django.setup()
    # What is imported before the fork need not be in every child.
    import_module("tests.training.support")
    import_module("tests.training.launchers.detached")
    import_module("training.tasks")
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                work(**json.loads(line))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def work(do: str, run: str, launcher: str, place: str, at: list[str], when: str) -> None:
    from django.utils import timezone

    from tests.training.launchers.detached import PROGRAM, DetachedLauncher, install
    from tests.training.support import make_run
    from training import launchers, services
    from training.execution import run_execute
    from training.launchers.local import LocalLauncher
    from training.models import TrainingRun

    install(DetachedLauncher(Path(place)))
    local = LocalLauncher(program=(str(PROGRAM),))
    local.poll_seconds = 0.05
    launchers._LAUNCHERS["local"] = local
    die_at((at[0], at[1]), when)
    if do == "execute":
        ends = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < ends:  # a detached run is looked at until it is time to die
            run_execute(run, worker="dying")
            now = timezone.now()
            TrainingRun.objects.filter(pk=run, next_step_at__gt=now).update(next_step_at=now)
            time.sleep(0.01)
    elif do == "cancel":
        services.run_cancel(TrainingRun.objects.get(pk=run), now=timezone.now())
    elif do == "abandon":
        services.runs_fail_abandoned(now=timezone.now())
    else:
        make_run(launcher=launcher)


def die_at(pair: tuple[str, str], when: str) -> None:
    """Patch what changes states: the one change that is asked for is the process's last."""
    from training import transitions

    create, move = transitions.create, transitions.move

    def dying_create(run: Any, **words: Any) -> None:
        if pair[0] != transitions.NEW:
            return create(run, **words)
        return dying(lambda: create(run, **words) or True)

    def dying_move(run_id: Any, frm: str, to: str, **words: Any) -> bool:
        if (frm, to) != pair:
            return move(run_id, frm, to, **words)
        return dying(lambda: move(run_id, frm, to, **words))

    def dying(change: Any) -> Any:
        from django.db import transaction

        with transaction.atomic():
            moved = []
            if when == "after":
                # Before whatever else is done on commit: its messages are never sent.
                transaction.on_commit(lambda: die() if moved else None)
            if not change():
                return False
            moved.append(True)
            if when == "before":
                die()
        return True

    transitions.create, transitions.move = dying_create, dying_move


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
