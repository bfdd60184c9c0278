"""How gunicorn serves Sentinelle: `gunicorn --config gunicorn.conf.py sentinelle.wsgi`.

Threads, because a request spends much of its time waiting for the database's disk; few processes,
because each holds the model.
"""

import gc
import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sentinelle.settings")

from django.conf import settings
from django.db import connections

from sentinelle.env import env_int

bind = (
    f"[{settings.HOST}]:{settings.PORT}"
    if ":" in settings.HOST
    else f"{settings.HOST}:{settings.PORT}"
)
worker_class = "gthread"
workers = env_int("WEB_CONCURRENCY", 2, 1, 64)
threads = env_int("WEB_THREADS", 4, 1, 64)
# The compiled kernels are loaded once and shared by the processes that are forked afterwards.
preload_app = True
# Longer than the idle time of the usual load balancers (60 s), which must be the ones to hang up.
keepalive = 75
timeout = 60
graceful_timeout = 10
loglevel = settings.LOG_LEVEL.lower()
control_socket_disable = True


def when_ready(server: Any) -> None:  # noqa: ARG001
    """What was loaded by now stays: collecting garbage need not look at it, nor copy its pages."""
    gc.collect()
    gc.freeze()


def pre_fork(server: Any, worker: Any) -> None:  # noqa: ARG001
    """A connection can't be shared between processes."""
    connections.close_all()


def post_worker_init(worker: Any) -> None:  # noqa: ARG001
    """Load what is live before the first request, and follow it from then on."""
    from scoring.live_classifiers import live_classifiers
    from scoring.live_model import live_model

    live_model.start()
    live_classifiers.start()


def worker_exit(server: Any, worker: Any) -> None:  # noqa: ARG001
    """Stop following, and close the connections that followed."""
    from scoring.live_classifiers import live_classifiers
    from scoring.live_model import live_model

    live_model.stop()
    live_classifiers.stop()
