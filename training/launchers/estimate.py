"""How long a run will take at a place, how much memory it needs and what it will cost.

From what it took before: the runs of a like size of the same model at the same place, or, until
there are any, what we measured (docs/training.md).
"""

import math
import os
from collections.abc import Mapping
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import msgspec
from django.conf import settings
from django.db.models.functions import Coalesce, Least

from deployments.costs import about_dollars, estimate
from deployments.gcp.limits import machine_types
from deployments.models import RegisteredModel
from engine.classifier.definition import Definition, read_definition
from engine.errors import InvalidDefinition, RunRefused
from engine.kinds import CLASSIFIER, FRAUD, Kind
from training.launchers.resources import (
    CloudRunResources,
    LocalResources,
    Resources,
    about_time,
    read_resources,
)
from training.models import Dataset, RunState, TrainingRun
from training.pipeline.classifier import sizes
from training.pipeline.spec import AnyOptions, ClassifierOptions, Options, decode_options_of

# Rows, seconds and MB of whole runs with 2 cores.
MEASURED: dict[Kind, tuple[tuple[int, float, int], ...]] = {
    FRAUD: ((100_000, 15.0, 660), (1_000_000, 125.0, 1_881), (6_400_000, 468.0, 4_392)),
    CLASSIFIER: sizes.MEASURED,
}
# How much of the work several cores share: taken, not measured, and rather too little.
PARALLEL = 0.5
# The fits of the supervised model are about this much of a run; a round of a search costs as much.
FIT_SHARE = 0.5
# From the request until the program begins: a process, a container, a machine that boots.
STARTUP_SECONDS = {"local": 2.0, "cloud-run": 60.0, "vm": 120.0}
# What the system of a machine keeps for itself.
SYSTEM_MB = 250
# Runs within this factor of the wanted number of rows are of a like size; so many are looked at.
LIKE = 10
RECENT = 5


class Machine(NamedTuple):
    """What a place has; None where that is not known."""

    cores: float | None
    memory_mb: int | None


class Estimate(NamedTuple):
    """What to expect of a run."""

    seconds: int
    """From the request to the end, where nothing has to be waited for."""
    memory_mb: int
    usd: Decimal | None
    """None when it is not known."""
    words: str
    """All of it in one sentence."""
    warnings: tuple[str, ...] = ()
    """What may go wrong, each with what to do; none refuses the run."""
    price_note: str = ""
    """Why the cost is not known, or which free tier may pay it."""


def run_estimate(
    launcher: str,
    resources: Resources | Mapping[str, Any],
    dataset: Dataset,
    sample: int | None = None,
    options: AnyOptions | None = None,
    *,
    model: str = settings.MODEL_NAME,
) -> Estimate:
    """What to expect of a run with `resources`, which may be as a run keeps them."""
    rows = min(sample or dataset.rows, dataset.rows)
    return estimate_rows(launcher, resources, rows, options, model=model)


def estimate_rows(
    launcher: str,
    resources: Resources | Mapping[str, Any],
    rows: int,
    options: AnyOptions | None = None,
    *,
    model: str = settings.MODEL_NAME,
    here: Machine | None = None,
) -> Estimate:
    """The same for a number of rows. `here` is this machine, unless told otherwise."""
    if isinstance(resources, Mapping):
        resources = read_resources(launcher, resources)
    options = options or Options()
    kind = _kind(options)
    place = machine_of(resources, here or this_machine())
    slower, larger, runs = _experience(launcher, model, kind, rows)
    work = slower * _expected_seconds(rows, place.cores, options)
    seconds = round(work + _startup(launcher, place))
    needed = larger * _expected_memory_mb(rows, options, _definition(model))
    memory_mb = _within_limit(round(needed), options)
    cost = estimate(launcher, msgspec.to_builtins(resources), seconds)
    known = f"{runs} earlier runs like it" if runs > 1 else "one earlier run like it"
    words = (
        f"{rows:,} rows take about {about_time(seconds)} and {_gb(memory_mb)} of memory, by "
        f"{known if runs else 'what was measured on 2 cores'}; {_price_words(launcher, cost.usd)}."
    )
    warnings = _warnings(memory_mb, place, resources)
    return Estimate(seconds, memory_mb, cost.usd, words, warnings, cost.note)


def machine_of(resources: Resources, here: Machine) -> Machine:
    """What the program can use at its place."""
    if isinstance(resources, LocalResources):
        return Machine(resources.cpu or here.cores, resources.memory_mb or here.memory_mb)
    if isinstance(resources, CloudRunResources):
        return Machine(resources.cpu, resources.memory_mb)
    kind = machine_types().get(resources.machine_type)
    if kind is None:
        return Machine(None, None)
    return Machine(kind.share or kind.vcpu, kind.memory_mb - SYSTEM_MB)


def this_machine() -> Machine:
    """The cores that this process may use, and the memory that is free now, within the limits of
    its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    free = [mb for mb in (_available_mb(), _container_mb()) if mb is not None]
    return Machine(cores, min(free, default=None))


def _expected_memory_mb(rows: int, options: AnyOptions, definition: Definition | None) -> float:
    """Peak memory of a run on so many rows: by the shape of a classifier's, else as measured."""
    if definition is None or not isinstance(options, ClassifierOptions):
        return _on_curve(rows, _kind(options), 2)
    return sizes.expected_mb(
        rows,
        len(definition.columns),
        len(definition.classes),
        options.trees or definition.training.trees,
        test=options.test,
    )


def _definition(model: str) -> Definition | None:
    """Of a classifier; None for what is none, or can't be read any more."""
    source = RegisteredModel.objects.filter(name=model).values_list("definition", flat=True).first()
    try:
        return read_definition(source) if source else None
    except InvalidDefinition:
        return None


def _kind(options: AnyOptions) -> Kind:
    return CLASSIFIER if isinstance(options, ClassifierOptions) else FRAUD


def _expected_seconds(rows: int, cores: float | None, options: AnyOptions) -> float:
    """Of the program alone, as measured, with `cores` (2 where they are not known)."""
    seconds = _on_curve(rows, _kind(options), 1) * _slowness(2 if cores is None else cores)
    if isinstance(options, ClassifierOptions) or options.search is None:
        return seconds
    rounds = 1 + math.floor(math.log(options.search.configurations, 3))
    return seconds + min(rounds * FIT_SHARE * seconds, options.search.minutes * 60)


def _on_curve(rows: int, kind: Kind, column: int) -> float:
    """Between what was measured, and beyond it, in straight lines."""
    pairs = list(pairwise(MEASURED[kind]))
    low, high = next((pair for pair in pairs if rows <= pair[1][0]), pairs[-1])
    slope = (high[column] - low[column]) / (high[0] - low[0])
    return low[column] + slope * (rows - low[0])


def _slowness(cores: float) -> float:
    """How many times as long as with 2 cores it takes. Less than one core is a share of one."""
    whole = max(cores, 1.0)
    return ((1 - PARALLEL) + PARALLEL * 2 / whole) / min(cores, 1.0)


def _startup(launcher: str, place: Machine) -> float:
    share = min(place.cores or 1.0, 1.0) if launcher == "vm" else 1.0
    return STARTUP_SECONDS[launcher] / share


def _experience(launcher: str, model: str, kind: Kind, rows: int) -> tuple[float, float, int]:
    """How the latest runs of a like size compare with what was measured: the medians of time and
    memory, and of how many runs."""
    trained = Least(Coalesce("sample", "dataset__rows"), "dataset__rows")
    alike = TrainingRun.objects.annotate(trained=trained).filter(
        launcher=launcher,
        model__name=model,
        state=RunState.SUCCEEDED,
        report__timings__isnull=False,
        trained__range=(rows / LIKE, rows * LIKE),
    )
    kept = ("trained", "resources", "options", "report__timings", "report__peak_memory_mb")
    definition = _definition(model)
    times, peaks = [], []
    for run in alike.order_by("-finished_at").values(*kept)[:RECENT]:
        cores = _cores(launcher, run["resources"])
        options = decode_options_of(kind, run["options"])
        expected = _expected_seconds(run["trained"], cores, options)
        times.append(sum(run["report__timings"].values()) / expected)
        peak = run["report__peak_memory_mb"]
        usual = _expected_memory_mb(run["trained"], options, definition)
        peaks.append(peak / usual if peak else 1.0)
    if not times:
        return 1.0, 1.0, 0
    return median(times), median(peaks), len(times)


def _cores(launcher: str, resources: Mapping[str, Any]) -> float | None:
    """Those of an earlier run; its resources may be of an older form."""
    try:
        return machine_of(read_resources(launcher, resources), this_machine()).cores
    except RunRefused:
        return None


def _within_limit(memory_mb: int, options: AnyOptions) -> int:
    """A run with a memory limit plans for that."""
    return min(memory_mb, options.memory_limit_mb or memory_mb)


def _warnings(memory_mb: int, place: Machine, resources: Resources) -> tuple[str, ...]:
    if place.memory_mb is None or memory_mb <= place.memory_mb:
        return ()
    return (
        f"It needs about {_gb(memory_mb)} of memory and has {_gb(place.memory_mb)}"
        f"{_where(resources)}: it may be ended in the middle. Give it more, or plan for less with "
        "--memory-limit or --sample.",
    )


def _where(resources: Resources) -> str:
    if isinstance(resources, LocalResources):
        return "" if resources.memory_mb else " free here"
    return "" if isinstance(resources, CloudRunResources) else f" on {resources.machine_type}"


def _price_words(launcher: str, usd: Decimal | None) -> str:
    if launcher == "local":
        return "nothing is charged for this machine"
    return "what it costs is not known" if usd is None else f"it costs {about_dollars(usd)}"


def _gb(memory_mb: int) -> str:
    return f"{memory_mb:,} MB" if memory_mb < 1024 else f"{memory_mb / 1024:.1f} GB"


def _available_mb() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return None
    found = next((line for line in lines if line.startswith("MemAvailable:")), None)
    return None if found is None else int(found.split()[1]) // 1024


def _container_mb() -> int | None:
    """What is left of a container's limit (cgroup 2)."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = ((folder / name).read_text() for name in ("memory.max", "memory.current"))
    except OSError:
        return None
    return None if limit.strip() == "max" else max(0, int(limit) - int(used)) // 2**20
