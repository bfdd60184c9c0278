"""A worker is killed at every change of a run's state, before and after it is committed.

The changes are those of the code itself (`transitions.TRANSITIONS`): one that is added without a
story of how it comes about fails here.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from django.utils import timezone

from tests.bundles import seed_registry
from tests.training.launchers.conformance import processes, starts
from tests.training.launchers.detached import PROGRAM, use_detached
from tests.training.launchers.support import (
    Post,
    assert_nothing_is_half,
    pass_time,
    prepare,
    timeline,
)
from tests.training.support import database_url, make_run, wait_until
from training import claims, launchers, services
from training.launchers.local import LocalLauncher
from training.models import TrainingRun
from training.transitions import NEW, TRANSITIONS

pytestmark = pytest.mark.django_db(transaction=True)
BASE_DIR = Path(__file__).resolve().parents[3]


class Story(NamedTuple):
    """How a change comes about, and what may then be the run's end."""

    ends: set[str]
    program: str = "succeed"
    do: str = "execute"
    refuses: str = ""
    """A file in the place that makes it refuse."""
    before: Callable[[Post, TrainingRun], Any] = lambda post, run: None
    """What has happened before the worker that dies begins."""
    meanwhile: Callable[[TrainingRun], Any] = lambda run: None
    """What happens while it is at work."""


def dead_then_cancelled(post: Post, run: TrainingRun) -> None:
    """Another worker took it and died; somebody cancelled it; its lease has passed."""
    claims.run_claim(str(run.pk), worker="dead", now=timezone.now())
    services.run_cancel(run, now=timezone.now())
    pass_time(run)


def dead(post: Post, run: TrainingRun) -> None:
    """Another worker took it and died; its lease has passed."""
    claims.run_claim(str(run.pk), worker="dead", now=timezone.now())
    pass_time(run)


def cancelled_at_work(run: TrainingRun) -> None:
    wait_until(lambda: processes(run.folder))
    wait_until(lambda: TrainingRun.objects.get(pk=run.pk).handle)
    services.run_cancel(run, now=timezone.now())


DETACHED = {
    (NEW, "queued"): Story({"succeeded"}, do="create"),
    ("queued", "starting"): Story({"succeeded"}),
    ("queued", "cancelled"): Story({"succeeded", "cancelled"}, do="cancel"),
    ("starting", "queued"): Story({"succeeded"}, refuses="busy"),
    ("starting", "running"): Story({"succeeded"}),
    ("starting", "failed"): Story({"failed"}, refuses="broken"),
    ("starting", "cancelled"): Story({"cancelled"}, refuses="busy", before=dead_then_cancelled),
    ("running", "succeeded"): Story({"succeeded"}),
    ("running", "failed"): Story({"failed"}, program="fail"),
    ("running", "cancelled"): Story({"cancelled"}, program="hang", meanwhile=cancelled_at_work),
}
# A local program ends with its worker, so a run that had begun fails.
LOCAL = {
    (NEW, "queued"): Story({"succeeded"}, do="create"),
    ("queued", "starting"): Story({"succeeded", "failed"}),
    ("queued", "cancelled"): Story({"succeeded", "cancelled"}, do="cancel"),
    ("starting", "running"): Story({"failed"}),
    ("starting", "failed"): Story({"failed"}, do="abandon", before=dead),
    ("starting", "cancelled"): Story({"cancelled"}, do="abandon", before=dead_then_cancelled),
    ("running", "succeeded"): Story({"succeeded", "failed"}),
    ("running", "failed"): Story({"failed"}, program="fail"),
    ("running", "cancelled"): Story({"cancelled"}, program="hang", meanwhile=cancelled_at_work),
}
NEVER_LOCAL = {("starting", "queued")}  # its place is never busy
CASES = [
    pytest.param(launcher, pair, when, id=f"{launcher}-{pair[0]}-{pair[1]}-{when}")
    for launcher in ("detached", "local")
    for pair in TRANSITIONS
    if launcher == "detached" or pair not in NEVER_LOCAL
    for when in ("before", "after")
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("kills")


@pytest.fixture(scope="module")
def worker(django_db_setup, django_db_blocker, folders) -> Iterator[subprocess.Popen[str]]:
    with django_db_blocker.unblock():
        url = database_url()
    with subprocess.Popen(
        [sys.executable, "-m", "tests.training.launchers.dying_worker"],
        cwd=BASE_DIR,
        env=os.environ
        | {
            "DATABASE_URL": url,
            "DJANGO_SETTINGS_MODULE": "sentinelle.settings",
            "RUNS_DIR": str(folders / "runs"),
            "ARTIFACTS_DIR": str(folders / "artifacts"),
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()


@pytest.fixture
def post(transactional_db, settings, monkeypatch, folders) -> Post:
    seed_registry()
    settings.RUNS_DIR = str(folders / "runs")
    settings.ARTIFACTS_DIR = str(folders / "artifacts")
    local = LocalLauncher(program=(str(PROGRAM),))
    local.poll_seconds = 0.05
    monkeypatch.setitem(launchers._LAUNCHERS, "local", local)
    return Post(monkeypatch)


@pytest.mark.parametrize(("launcher", "pair", "when"), CASES)
def test_a_worker_killed_there(launcher, pair, when, worker, post, settings, monkeypatch, tmp_path):
    place = use_detached(monkeypatch, tmp_path / "place")
    story = (DETACHED if launcher == "detached" else LOCAL)[pair]
    if story.refuses:
        (place.folder / story.refuses).touch()
    run = None
    if story.do != "create":
        run = make_run(launcher=launcher)
        prepare(run, story.program)
        story.before(post, run)
    task = {"do": story.do, "run": str(run and run.pk), "launcher": launcher}
    worker.stdin.write(
        json.dumps(task | {"place": str(place.folder), "at": pair, "when": when}) + "\n"
    )
    worker.stdin.flush()
    if run is not None:
        story.meanwhile(run)
    assert int(worker.stdout.readline()) == -signal.SIGKILL, "it did not come to that change"

    if run is None:
        run = TrainingRun.objects.first()
        assert (run is None) == (when == "before")
        if run is None:
            return
        prepare(run, story.program)
    elif when == "after":
        assert timeline(run)[-1] == pair[1]
    (place.folder / "busy").unlink(missing_ok=True)
    post.lose()
    pass_time(run, seconds=61)
    services.runs_recover(now=timezone.now())
    run = post.go_on(run)
    if run.settled_at is None:
        pass_time(run, seconds=61)
        services.runs_recover(now=timezone.now())
        run = post.go_on(run)

    assert run.state in story.ends
    wait_until(lambda: not processes(run.folder), 5, "its program ends")
    assert_nothing_is_half(run, settings.ARTIFACTS_DIR)
    # One that is cancelled, or local, may be killed before it leaves its trace.
    left_alone = run.handle and launcher == "detached" and run.state != "cancelled"
    if run.state == "succeeded" or left_alone:
        assert len(starts(run.folder)) == 1


def test_every_change_that_there_is_has_its_story():
    assert set(DETACHED) == set(TRANSITIONS)
    assert set(LOCAL) | NEVER_LOCAL == set(TRANSITIONS)
