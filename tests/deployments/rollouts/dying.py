"""A process that kills itself at one point of a rollout, for test_interrupted.py.

Reads tasks from its standard input, one JSON object a line, and does each in a process of its own,
which is forked because starting Django takes a second. Its answer is how that process ended.

    {"deployment": "…", "at": "building", "when": "before"}

`at` is the state that a change leads to, `when` before or after that is committed; or `at` is how a
note begins that says what Google was asked to begin, and `when` is “lost”: Google has begun it and
the row does not know.
"""

import json
import os
import signal
import sys
import traceback
from importlib import import_module
from typing import Any
from uuid import UUID

import django


def main() -> None:
    django.setup()
    # What is imported before the fork need not be in every child.
    import_module("deployments.rollouts.driver")
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


def work(deployment: str, at: str, when: str) -> None:
    from deployments.rollouts import claims, driver

    die_at(at, when)
    driver.deployment_drive(UUID(deployment), worker=claims.worker_name(), tell=lambda _: None)


def die_at(at: str, when: str) -> None:
    from django.db import transaction

    from deployments.rollouts import claims, transitions

    move, change = transitions.move, claims.deployment_change

    def dying_move(pk: UUID, frm: str, to: str, **words: Any) -> bool:
        if to != at:
            return move(pk, frm, to, **words)
        with transaction.atomic():
            moved = move(pk, frm, to, **words)
            if when == "before":
                die()
            transaction.on_commit(die)
        return moved

    def dying_change(*args: Any, note: str = "", **words: Any) -> bool:
        if when == "lost" and note.startswith(at):
            die()
        return change(*args, note=note, **words)

    transitions.move, claims.deployment_change = dying_move, dying_change


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
