"""`--launcher auto`: where a run of so many rows goes, and why."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from django.conf import settings

from engine.errors import RunRefused
from training.launchers.estimate import (
    Estimate,
    Machine,
    estimate_rows,
    machine_of,
    run_estimate,
    this_machine,
)
from training.launchers.resources import (
    KINDS,
    CloudRunResources,
    LocalResources,
    Resources,
    VmResources,
    about_time,
    resources_for,
)
from training.pipeline.spec import AnyOptions

__all__ = ["AUTO", "Choice", "choose", "run_estimate"]

AUTO = "auto"
# Free memory is not all for us, and an estimate is one.
MEMORY_MARGIN = 1.1
TIME_MARGIN = 1.5
# A place that takes longer is taken only when none is quicker.
PATIENCE_SECONDS = 3600
# As long as TrainingRun.launcher_reason.
REASON_LENGTH = 300


class Choice(NamedTuple):
    """Where a run goes."""

    launcher: str
    resources: Resources
    reason: str
    """Why, in words and figures."""
    refused: tuple[tuple[str, str], ...]
    """The launchers that could not take it, each with why."""
    estimate: Estimate


class Option(NamedTuple):
    launcher: str
    resources: Resources
    estimate: Estimate


def choose(
    rows: int,
    options: AnyOptions | None = None,
    *,
    model: str = settings.MODEL_NAME,
    given: Mapping[str, Any] | None = None,
    here: Machine | None = None,
) -> Choice:
    """The cheapest place that can take the run within an hour; if none is so quick, the quickest.

    Args:
        given: resources that were asked for; a launcher that does not have them is left out.
        here: this machine, unless told otherwise.

    Raises:
        RunRefused: none can take it; says why of each.
    """
    here = here or this_machine()
    possible: list[Option] = []
    refused: list[tuple[str, str]] = []
    for launcher in KINDS:
        try:
            resources = resources_for(launcher, given)
        except RunRefused as refusal:
            refused.append((launcher, refusal.detail))
            continue
        expected = estimate_rows(launcher, resources, rows, options, model=model, here=here)
        if why := _why_not(resources, expected, here):
            refused.append((launcher, why))
        else:
            possible.append(Option(launcher, resources, expected))
    if not possible:
        reasons = " ".join(f"Not {launcher}: {why}" for launcher, why in refused)
        raise RunRefused(f"No place can take {rows:,} rows. {reasons}")
    best = _best(possible)
    return Choice(*best[:2], _reason(best, possible, refused), tuple(refused), best.estimate)


def _best(possible: list[Option]) -> Option:
    quick = [each for each in possible if each.estimate.seconds <= PATIENCE_SECONDS]
    if not quick:
        return min(possible, key=lambda each: each.estimate.seconds)
    return min(quick, key=lambda each: (_price(each), each.estimate.seconds))


def _price(option: Option) -> float:
    """To compare: what is not known comes last."""
    return float("inf") if option.estimate.usd is None else float(option.estimate.usd)


def _why_not(resources: Resources, expected: Estimate, here: Machine) -> str:
    """Why a place can't take a run, or nothing."""
    if not isinstance(resources, LocalResources) and (missing := _no_bucket()):
        return missing
    memory_mb = machine_of(resources, here).memory_mb
    if memory_mb is not None and expected.memory_mb * MEMORY_MARGIN > memory_mb:
        return (
            f"it needs about {expected.memory_mb / 1024:.1f} GB of memory and "
            f"{_name(resources)} has {memory_mb / 1024:.1f} GB{_free(resources)}."
        )
    limit = _time_limit(resources)
    if limit is not None and expected.seconds * TIME_MARGIN > limit:
        return (
            f"it takes about {about_time(expected.seconds)}, too near to the limit of "
            f"{about_time(limit)}."
        )
    return ""


def _no_bucket() -> str:
    folders = ("DATA_DIR", "RUNS_DIR", "ARTIFACTS_DIR")
    local = [name for name in folders if not getattr(settings, name).startswith("gs://")]
    if not local:
        return ""
    return f"{' and '.join(local)} must be in a bucket: set BUCKET_NAME."


def _time_limit(resources: Resources) -> int | None:
    if isinstance(resources, CloudRunResources):
        return resources.timeout_s
    return resources.max_run_s if isinstance(resources, VmResources) else None


def _name(resources: Resources) -> str:
    if isinstance(resources, VmResources):
        return resources.machine_type
    return "the job" if isinstance(resources, CloudRunResources) else "this machine"


def _free(resources: Resources) -> str:
    is_shared = isinstance(resources, LocalResources) and resources.memory_mb is None
    return " free" if is_shared else ""


def _reason(best: Option, possible: list[Option], refused: list[tuple[str, str]]) -> str:
    others = [
        f"{each.launcher} would take {about_time(each.estimate.seconds)}"
        + (f" and ${each.estimate.usd:.2f}" if each.estimate.usd is not None else "")
        for each in possible
        if each is not best
    ]
    parts = [f"{best.launcher}: {best.estimate.words}"]
    if others:
        parts.append(f"Otherwise {' and '.join(others)}.")
    parts += [f"Not {launcher}: {why}" for launcher, why in refused]
    text = " ".join(parts)
    return text if len(text) <= REASON_LENGTH else f"{text[: REASON_LENGTH - 1]}…"
