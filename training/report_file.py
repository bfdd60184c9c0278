"""A training run's report as one file: HTML that needs nothing else, now or in ten years."""

import base64
import hashlib
import logging
from pathlib import Path
from typing import NamedTuple

from django.contrib.staticfiles import finders
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.template.loader import render_to_string
from django.utils import timezone

from deployments.models import Kind
from training import selectors
from training.facts import sampled
from training.models import RunState, TrainingRun
from training.report import remedy, report_context

logger = logging.getLogger(__name__)
STYLES = ("training/report_page.css", "training/report.css")
SCRIPTS = {
    Kind.FRAUD: ("training/plots.js", "training/report.js"),
    Kind.CLASSIFIER: ("training/plots.js", "training/classifier_report.js"),
}


class Inlined(NamedTuple):
    """A file to be put into the page, and its digest as a content security policy names it."""

    text: str
    digest: str


def report_kept(run: TrainingRun) -> bytes:
    """The report of a run that has ended, from the storage; made and put there at the first call.

    Raises StoreUnavailable when the log of the run can't be read.
    """
    name = f"reports/{run.pk}.html"
    try:
        with default_storage.open(name) as kept:
            return bytes(kept.read())
    except Exception as error:
        # Not there yet; or the storage does not answer, and it can be made as well without.
        logger.info("The report of run %s is made: %s", run.pk, error)
    page = report_html(run).encode()
    try:
        default_storage.save(name, ContentFile(page))
    except Exception as error:
        logger.warning("The report of run %s could not be kept: %s", run.pk, error)
    return page


def report_html(run: TrainingRun) -> str:
    """The report of a run that has ended.

    Its scripts and styles are inside, the browser is told to load and run nothing else, and it
    follows the reader's light or dark theme.

    Raises StoreUnavailable when the log of the run can't be read.
    """
    context = {
        "title": f"{run.model.name} v{run.version}",
        "state": run.get_state_display(),
        "made": f"{timezone.localtime(run.finished_at):%Y-%m-%d %H:%M}" if run.finished_at else "",
        "stage": run.stage,
        "error": run.error if run.state == RunState.FAILED else "",
        "remedy": remedy(run.stage, run.error, run.model.kind),
        "facts": _facts(run),
        "log": selectors.run_log_tail(run),
        "styles": [_inlined(name) for name in STYLES],
        "scripts": [_inlined(name) for name in SCRIPTS[Kind(run.model.kind)]],
    }
    return render_to_string("training/report_file.html", context | report_context(run.report))


def _facts(run: TrainingRun) -> list[tuple[str, str]]:
    classifier = run.model.is_classifier
    what = "rows" if classifier else "transactions"
    rows = f"{sampled(run)} {run.sample:,}" if run.sample else f"all {run.dataset.rows:,}"
    return [
        ("Data set", f"{run.dataset.name}, {rows} {what}"),
        *([] if classifier else [("Rules", run.rules_name)]),
        ("Seed", str(run.seed)),
        ("Run", str(run.pk)),
    ]


def _inlined(name: str) -> Inlined:
    found = finders.find(name)
    assert isinstance(found, str), f"{name} is part of this app"
    text = Path(found).read_text()
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Inlined(text, f"sha256-{digest}")
