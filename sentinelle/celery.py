"""The Celery application: workers run what takes longer than a request."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sentinelle.settings")
app = Celery("sentinelle")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
