"""The Celery application: workers run what takes longer than a request."""

import os
from typing import Any

from celery import Celery
from celery.signals import beat_init

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sentinelle.settings")
app = Celery("sentinelle")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@beat_init.connect  # type: ignore[untyped-decorator]
def forget_old_entries(**_signal: Any) -> None:
    """Before beat begins: what an older version had it send is nobody's any more."""
    from training.schedules import entries_forget_old

    entries_forget_old()
