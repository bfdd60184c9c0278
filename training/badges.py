"""Small labels of the admin's pages about runs."""

from deployments.admin.base import badge
from training.models import RunState, TrainingRun

STATE_KINDS = {
    RunState.QUEUED: "quiet",
    RunState.STARTING: "active",
    RunState.RUNNING: "active",
    RunState.SUCCEEDED: "good",
    RunState.FAILED: "bad",
    RunState.CANCELLED: "quiet",
}


def state_badge(run: TrainingRun) -> str:
    """The run's state as a label."""
    if run.is_active and run.cancel_requested_at is not None:
        return badge("Cancelling", "warn")
    return badge(run.get_state_display(), STATE_KINDS[RunState(run.state)], run.error)
