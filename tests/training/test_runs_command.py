"""manage.py runs: look at runs, follow them, cancel them."""

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from tests.bundles import seed_registry
from tests.training.support import make_run, use_fake_job
from training import selectors
from training.execution import run_execute
from training.following import time_left
from training.models import RunState, TrainingRun

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _registry(transactional_db):
    seed_registry()


def runs(*words: str) -> str:
    out = StringIO()
    call_command("runs", *words, stdout=out, stderr=out)
    return out.getvalue()


def test_the_list_has_the_latest_first_and_filters():
    make_run("1.0.0")
    run = make_run("1.1.0")
    lines = runs("list").splitlines()
    assert lines[0].split()[:3] == ["RUN", "VERSION", "STATE"]
    assert [line.split()[2] for line in lines[1:]] == ["v1.1.0", "v1.0.0"]
    assert str(run.pk)[:8] in lines[1]
    assert "no such run" in runs("list", "--state", "failed")


def test_show_has_the_facts_and_the_timeline():
    run = make_run()
    runs("cancel", str(run.pk)[:8])
    text = runs("show", str(run.pk)[:8])
    assert "Data set:        sales" in text
    assert [state for state in ("queued", "cancelled") if state in text.split("Timeline")[1]] == [
        "queued",
        "cancelled",
    ]


def test_watch_shows_the_log_and_how_it_ended(monkeypatch):
    use_fake_job(monkeypatch, "crash")
    run = make_run()
    run_execute(str(run.pk), worker="test")
    with pytest.raises(CommandError, match="The run failed at"):
        runs("watch", str(run.pk), "--log")
    assert "Segmentation fault in a library" in runs("logs", "1.0.0", "--lines", "5")


def test_cancel_twice_says_how_it_ended():
    run = make_run()
    assert f"Run {run.pk} was cancelled." in runs("cancel", "1.0.0")
    with pytest.raises(CommandError, match="already ended: it was cancelled"):
        runs("cancel", "1.0.0")


def test_a_run_that_is_not_there_names_recent_ones():
    make_run()
    with pytest.raises(CommandError, match=r"no training run “zzzz”.*fraud v1\.0\.0, queued"):
        runs("watch", "zzzz")


@pytest.mark.parametrize(
    ("fraction", "minutes", "words"),
    [(0.5, 1, "about 60 s"), (0.25, 10, "about 30 min"), (0.1, 60, "about 9.0 h"), (0.01, 1, "")],
)
def test_the_time_that_is_left(fraction, minutes, words):
    now = timezone.now()
    run = TrainingRun(
        state=RunState.RUNNING, started_at=now - timedelta(minutes=minutes), fraction=fraction
    )
    assert time_left(run, now) == words
    assert selectors.run_expected_end(TrainingRun(state=RunState.QUEUED), now) is None
