"""The one place where a run's state changes, and where its timeline is written."""

import uuid
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Q

from training import messages
from training.models import RunEvent, RunState, TrainingRun

NEW = ""
ENDED = (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)
TRANSITIONS: tuple[tuple[str, str], ...] = (
    (NEW, RunState.QUEUED),
    (RunState.QUEUED, RunState.STARTING),
    (RunState.QUEUED, RunState.CANCELLED),
    (RunState.STARTING, RunState.QUEUED),  # its place is busy
    (RunState.STARTING, RunState.RUNNING),
    (RunState.STARTING, RunState.FAILED),
    (RunState.STARTING, RunState.CANCELLED),
    (RunState.RUNNING, RunState.SUCCEEDED),
    (RunState.RUNNING, RunState.FAILED),
    (RunState.RUNNING, RunState.CANCELLED),
)


def create(run: TrainingRun, *, by: str, now: datetime, message: str = "") -> None:
    """Insert a new run, queued, with the first event of its timeline."""
    with transaction.atomic():
        run.save(force_insert=True)
        RunEvent.objects.create(
            run=run, at=now, from_state=NEW, state=run.state, by=by, message=message
        )


def move(
    run_id: uuid.UUID,
    frm: str,
    to: str,
    *,
    by: str,
    message: str,
    now: datetime,
    held_by: str | None = None,
    where: Q | None = None,
    shown: str | None = None,
    **changes: Any,
) -> bool:
    """Bring a run from one state to another, if it is still in the first; say whether it was.

    A run that ends lets its worker go, and what follows an end (`after.py`) is sent.

    Args:
        by: who does it, for the timeline: a person or a worker.
        message: why or how, for the timeline.
        held_by: only while this worker has the run.
        where: what else must be true of the row.
        shown: the row's own `message`, for whoever waits for the run.
        changes: other fields to set with the state.
    """
    if (frm, to) not in TRANSITIONS:
        raise ValueError(f"a run never goes from {frm} to {to}")
    if shown is not None:
        changes["message"] = shown[:300]
    if to in ENDED:
        changes |= {"finished_at": now, "lease_until": None, "next_step_at": None}
    with transaction.atomic():
        rows = TrainingRun.objects.filter(where or Q(), pk=run_id, state=frm)
        if held_by is not None:
            rows = rows.filter(claimed_by=held_by)
        if rows.update(state=to, **changes) != 1:
            return False
        RunEvent.objects.create(
            run_id=run_id, at=now, from_state=frm, state=to, by=by, message=message
        )
        if to in ENDED:
            messages.send_on_commit(messages.AFTER_RUN, run_id)
    return True


def note(run_id: uuid.UUID, message: str, by: str, now: datetime) -> None:
    """Put something that changes no state into a run's timeline."""
    state = TrainingRun.objects.values_list("state", flat=True).get(pk=run_id)
    RunEvent.objects.create(
        run_id=run_id, at=now, from_state=state, state=state, by=by, message=message
    )
