"""What is told of a run, in words: on its page and on a terminal."""

from datetime import datetime, timedelta

from django.template.defaultfilters import filesizeformat
from django.utils import timezone

from deployments.costs import dollars
from training.launchers.resources import describe_resources, read_resources
from training.models import Then, TrainingRun
from training.options import describe_options
from training.selectors import run_expected_end


def run_facts(run: TrainingRun, now: datetime) -> list[tuple[str, str]]:
    """Pairs of words; what is empty is left out. Needs the run's report."""
    data = run.dataset
    facts = [
        ("Model", run.model.name),
        ("Version", str(run.model_version or "")),
        ("Data set", data.name),
        ("Rows", f"{sampled(run)} {run.sample:,}" if run.sample else f"all {data.rows:,}"),
        ("Rules", run.rules_name),
        ("Seed", str(run.seed)),
        *describe_options(run.typed_options),
        ("Launcher", run.launcher),
        ("Resources", describe_place(run)),
        ("Chosen because", run.launcher_reason),
        ("At its place", run.handle if run.launcher != "local" else ""),
        ("Then", run.get_then_display() if run.then != Then.KEEP else ""),
        ("Requested", moment(run.created_at, run.requested_by)),
        ("Started", moment(run.started_at, run.claimed_by)),
        ("Last sign of life", moment(run.heartbeat_at) if run.is_active else ""),
        ("Expected end", moment(run_expected_end(run, now))),
        ("Ended", moment(run.finished_at)),
        ("Duration", duration_in_words(run.duration) if run.started_at else ""),
        ("Cost", _cost(run)),
    ]
    if "peak_memory_mb" in run.report:
        facts.append(("Peak memory", filesizeformat(run.report["peak_memory_mb"] * 2**20)))
    facts.append(("Run", str(run.pk)))
    return [(name, value) for name, value in facts if value]


def sampled(run: TrainingRun) -> str:
    """Which rows of its data set a sample has."""
    return "the first" if run.model.is_classifier else "the last"


def describe_place(run: TrainingRun) -> str:
    """Where a run executes and what it has there."""
    return describe_resources(read_resources(run.launcher, run.resources))


def moment(at: datetime | None, by: str = "") -> str:
    """A moment in the site's time zone, and whose it was; empty for None."""
    if at is None:
        return ""
    return f"{timezone.localtime(at):%Y-%m-%d %H:%M:%S}" + (f" by {by}" if by else "")


def duration_in_words(duration: timedelta | None) -> str:
    """Hours, minutes and seconds; “-” for None."""
    if duration is None:
        return "-"
    return str(timedelta(seconds=round(duration.total_seconds())))


def _cost(run: TrainingRun) -> str:
    if run.launcher == "local":
        return ""
    expected = f"about {dollars(run.estimated_cost_usd)}"
    if run.estimated_cost_usd is None:
        expected = "unknown"
    if run.is_active:
        return expected
    return f"{dollars(run.cost_usd)}, expected {expected}"
