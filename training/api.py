"""Training runs over HTTP: translate in, one call, translate out. The contract is docs/api.md."""

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Annotated, Any, cast
from uuid import UUID

import msgspec
from django.conf import settings
from django.http import HttpResponse
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from msgspec import Meta
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request

from deployments.models import RegisteredModel, Scope
from engine.errors import FieldError, InvalidRequest, SentinelleError
from engine.kinds import FRAUD
from scoring.api import JsonView
from scoring.authentication import Caller
from training import selectors, services
from training.launchers.choose import AUTO
from training.launchers.resources import KINDS, resources_for
from training.models import RunState, Then, TrainingRun
from training.options import DATES, FIELDS, read_options
from training.pipeline.spec import AnyOptions
from training.places import LAUNCHERS, PLACE_FIELDS, read_place

PAGE = 50
MOST = 200
LOG_LINES = 1_000
UNKNOWN_FIELD = re.compile(r"unknown field `([^`]*)`")
WRITTEN_AS = {field.resource: field.name for field in PLACE_FIELDS}
COMMAND_NAME = re.compile(r"--([a-z][a-z-]*)")
FILTERS = ("state", "model", "launcher", "limit", "before")
CHOSEN = [name for name in LAUNCHERS if name != AUTO]
OPTIONS = {field.name for field in FIELDS}


class NewRun(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /training-runs`."""

    dataset: str
    version: str
    model: str | None = None
    rules: str | None = None
    sample: Annotated[int, Meta(ge=1)] | None = None
    seed: Annotated[int, Meta(ge=0)] = 0
    launcher: str = "local"
    then: str = Then.KEEP.value
    resources: dict[str, int | str] = {}
    options: dict[str, Any] = {}


class UnknownRun(SentinelleError):
    """There is no training run of that id."""

    code = "UNKNOWN_RUN"


class RunsView(JsonView):
    """`/training-runs`: start a run, list runs."""

    required_scope = Scope.TRAIN.value

    def post(self, request: Request) -> HttpResponse:
        """Answer 201 with the queued run and its address."""
        asked = _decode(self.body(request._request))
        caller = cast(Caller, request.user)
        resources, options = _place_and_options(asked)
        run = services.run_create(
            dataset=asked.dataset,
            model=asked.model or settings.MODEL_NAME,
            version=asked.version,
            rules=asked.rules,
            sample=asked.sample,
            seed=asked.seed,
            launcher=asked.launcher,
            resources=resources,
            options=options,
            requested_by=caller.name,
            then=_then(asked.then, caller),
        )
        response = self.answer(described(selectors.run_by_id(run.pk)), status=201)
        response["Location"] = f"/training-runs/{run.pk}"
        return response

    def get(self, request: Request) -> HttpResponse:
        """Answer the most recent runs first, and the address of the next page."""
        asked = request.query_params
        _refuse_unknown(asked, FILTERS)
        runs = selectors.runs_detailed()
        if state := asked.get("state"):
            if state not in RunState.values:
                raise _wrong("state", f"expected one of {', '.join(RunState.values)}")
            runs = runs.filter(state=state)
        if model := asked.get("model"):
            runs = runs.filter(model__name=model)
        if launcher := asked.get("launcher"):
            if launcher not in CHOSEN:
                raise _wrong("launcher", f"expected one of {', '.join(CHOSEN)}")
            runs = runs.filter(launcher=launcher)
        limit = _number(asked.get("limit"), PAGE)
        if before := asked.get("before"):
            last = _found(before)
            runs = runs.filter(created_at__lt=last.created_at)
        page = list(runs[: limit + 1])
        following = None
        if len(page) > limit:
            page = page[:limit]
            query = request._request.GET.copy()
            query["before"] = str(page[-1].pk)
            following = f"/training-runs?{query.urlencode()}"
        return self.answer({"results": [described(run) for run in page], "next": following})


class RunView(JsonView):
    """`GET /training-runs/{id}`: one run, with its timeline and, once it succeeded, metrics."""

    required_scope = Scope.TRAIN.value

    def get(self, request: Request, run_id: UUID) -> HttpResponse:  # noqa: ARG002
        """Answer the run."""
        run = _found(run_id)
        events = [
            {"at": event.at, "state": event.state, "by": event.by, "message": event.message}
            for event in run.events.all()
        ]
        metrics = run.model_version.metrics if run.model_version is not None else None
        return self.answer(described(run) | {"events": events, "metrics": metrics})


class RunLogView(JsonView):
    """`GET /training-runs/{id}/log`: the last lines that its program logged."""

    required_scope = Scope.TRAIN.value

    def get(self, request: Request, run_id: UUID) -> HttpResponse:
        """Answer the lines; `?lines=` tells how many at most."""
        count = _number(request.query_params.get("lines"), selectors.LOG_TAIL_LINES, LOG_LINES)
        return self.answer({"lines": selectors.run_log_tail(_found(run_id), count).splitlines()})


class RunCancelView(JsonView):
    """`POST /training-runs/{id}/cancel`: end a run."""

    required_scope = Scope.TRAIN.value

    def post(self, request: Request, run_id: UUID) -> HttpResponse:
        """Answer 202 with the run; it is cancelled once its program has ended."""
        run = _found(run_id)
        services.run_cancel(run, by=cast(Caller, request.user).name, now=timezone.now())
        return self.answer(described(selectors.run_by_id(run.pk)), status=202)


def described(run: TrainingRun) -> dict[str, Any]:
    """A run as the API gives it."""
    return {
        "id": run.pk,
        "model": run.model.name,
        "version": run.version,
        "dataset": run.dataset.name,
        "state": run.state,
        "stage": run.stage,
        "fraction": run.fraction,
        "rows": run.rows,
        "message": run.message,
        "error": run.error or None,
        "launcher": run.launcher,
        "launcher_reason": run.launcher_reason or None,
        "resources": run.resources,
        "is_registered": run.model_version is not None,
        "then": run.then,
        "requested_by": run.requested_by,
        "created_at": run.created_at,
        "started_at": run.started_at,
        "heartbeat_at": run.heartbeat_at,
        "expected_end_at": selectors.run_expected_end(run, timezone.now()),
        "cancel_requested_at": run.cancel_requested_at,
        "finished_at": run.finished_at,
        "estimated_cost_usd": run.estimated_cost_usd,
        "cost_usd": run.cost_usd,
    }


def _decode(body: bytes) -> NewRun:
    try:
        return msgspec.json.decode(body, type=NewRun)
    except msgspec.ValidationError as error:
        words, _, place = str(error).partition(" - at `$.")
        if unknown := UNKNOWN_FIELD.search(words):
            place, words = unknown[1], f"unknown; expected {', '.join(NewRun.__struct_fields__)}"
        raise _wrong(place.rstrip("`") or "body", words) from None
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"The body is not JSON: {error}") from None


def _place_and_options(asked: NewRun) -> tuple[dict[str, Any], AnyOptions]:
    """The resources and the options; raises InvalidRequest that names every fault in them by where
    it was sent."""
    faults: list[FieldError] = []
    place = _read("resources", asked.resources, partial(_resources, asked.launcher), faults)
    model = RegisteredModel.objects.filter(name=asked.model or settings.MODEL_NAME).first()
    # Of a model that there is not, `run_create` tells.
    kind = model.kind if model is not None else FRAUD
    options = _read("options", asked.options, partial(_options, kind), faults)
    if faults:
        words = "; ".join(f"{fault.field}: {fault.message}" for fault in faults)
        raise InvalidRequest(words, faults)
    return place, options


def _read(
    part: str,
    given: dict[str, Any],
    read: Callable[[dict[str, Any]], Any],
    faults: list[FieldError],
) -> Any:
    """What `read` makes of a part of the body. A fault is added to `faults`, and its field left
    out, until nothing is wrong."""
    left = dict(given)
    while True:
        try:
            return read(left)
        except SentinelleError as refusal:
            found = refusal.errors or [FieldError("", refusal.detail)]
        faults += [_as_sent(part, fault) for fault in found]
        named = {fault.field.removeprefix(f"{part}.") for fault in found} & left.keys()
        # A field that lacks another, or that is fine only without it, is left out for it.
        named = named or {name for name in left if not _fails(read, left, name, found)}
        if not named:
            return None
        left = {name: value for name, value in left.items() if name not in named}


def _fails(
    read: Callable[[dict[str, Any]], Any],
    given: dict[str, Any],
    name: str,
    faults: Sequence[FieldError],
) -> bool:
    """Whether `read` finds the same faults without the field `name`."""
    try:
        read({key: value for key, value in given.items() if key != name})
    except SentinelleError as refusal:
        return list(refusal.errors) == list(faults)
    return False


def _as_sent(part: str, fault: FieldError) -> FieldError:
    """A fault by its path in the body, in words without the command's dashes."""
    if fault.field in ("launcher", part):
        return fault
    name = fault.field.removeprefix(f"{part}.")
    name = WRITTEN_AS.get(name, name)
    message = COMMAND_NAME.sub(lambda found: found[1].replace("-", "_"), fault.message)
    return FieldError(f"{part}.{name}" if name else part, message)


def _resources(launcher: str, given: dict[str, Any]) -> dict[str, Any]:
    _refuse_unknown(given, [field.name for field in PLACE_FIELDS])
    place = read_place(launcher, given)
    if launcher in KINDS:
        resources_for(launcher, place)
    return place


def _then(given: str, caller: Caller) -> str:
    if given not in Then.values:
        raise _wrong("then", f"“{given}” is unknown; there are {', '.join(Then.values)}")
    if given == Then.PROMOTE and Scope.PROMOTE not in caller.scopes:
        raise PermissionDenied(f"The key lacks the scope “{Scope.PROMOTE.value}”.")
    return given


def _options(kind: str, given: dict[str, Any]) -> Any:
    _refuse_unknown(given, sorted(OPTIONS))
    return read_options({name: _value(name, value) for name, value in given.items()}, kind)


def _value(name: str, value: Any) -> Any:
    if name not in DATES or value is None:
        return value
    try:
        at: datetime | None = parse_datetime(value)
    except (TypeError, ValueError):
        at = None
    if at is None or at.tzinfo is None:
        raise _wrong(f"options.{name}", "expected a time such as 2026-01-31T00:00:00Z")
    return at


def _found(run_id: Any) -> TrainingRun:
    try:
        run = selectors.runs_detailed().filter(pk=UUID(str(run_id))).first()
    except ValueError:
        run = None
    if run is None:
        raise UnknownRun(f"There is no training run {run_id}.")
    return run


def _number(text: str | None, default: int, most: int = MOST) -> int:
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= most:
        raise _wrong("limit", f"expected a number from 1 to {most}")
    return int(text)


def _refuse_unknown(asked: Any, known: Sequence[str]) -> None:
    errors = [
        FieldError(name, f"unknown; expected {', '.join(known)}")
        for name in sorted(asked)
        if name not in known
    ]
    if errors:
        names = ", ".join(error.field for error in errors)
        raise InvalidRequest(f"Unknown: {names}.", errors)


def _wrong(field: str, message: str) -> InvalidRequest:
    return InvalidRequest(f"{field}: {message}", [FieldError(field, message)])
