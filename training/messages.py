"""Messages to the workers, sent once the transaction that they are about has committed."""

import logging
import uuid
from typing import Any

from celery import current_app
from django.db import transaction
from kombu.exceptions import OperationalError as BrokerError

from deployments.messages import send_task

__all__ = ["AFTER_RUN", "RUN_TRAIN", "STEP_RUN", "send", "send_on_commit", "send_task"]

logger = logging.getLogger(__name__)
# For a run that its worker stays with, in the queue of long tasks; any other is taken in steps.
RUN_TRAIN = "training.tasks.run_train"
STEP_RUN = "training.tasks.step_run"
AFTER_RUN = "training.tasks.after_run"


def send(task: str, run_id: uuid.UUID, **options: Any) -> None:
    """Send a run's message. A broker that is down is no failure: beat sends it again."""
    try:
        current_app.send_task(task, kwargs={"run_id": str(run_id)}, **options)
    except BrokerError as error:
        logger.warning("The message of run %s could not be sent yet: %s", run_id, error)


def send_on_commit(task: str, run_id: uuid.UUID) -> None:
    """As `send`, when the transaction commits; at once without one."""
    transaction.on_commit(lambda: send(task, run_id))
