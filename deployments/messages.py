"""Messages to the workers."""

import logging
from typing import Any

from celery import current_app
from kombu.exceptions import OperationalError as BrokerError

logger = logging.getLogger(__name__)


def send_task(task: str, *, expires: float | None = None, **arguments: Any) -> None:
    """Send a message. A broker that is down is no failure: beat sends it again."""
    try:
        current_app.send_task(task, kwargs=arguments, expires=expires)
    except BrokerError as error:
        logger.warning("The message %s %s could not be sent yet: %s", task, arguments, error)
