"""Reads of what was scored, for people. The hot path reads in `scoring.history`."""

import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from django.db.models import Exists, OuterRef, Q, QuerySet, Subquery, TextField
from django.db.models.functions import Cast

from deployments.models import RegisteredModel, RuleSet
from deployments.selectors import champions, model_by_name
from engine.classifier.definition import Definition, read_definition
from engine.errors import NoModel, NotRegistered, UnknownModel
from engine.kinds import CLASSIFIER
from engine.scorer import ANOMALY_HIGH, SUPERVISED_HIGH
from scoring.control import CONTROL_GROUP
from scoring.live_classifiers import live_classifiers
from scoring.models import Attempt, ConfirmedFraud, Label, ScoreRecord, Side, Verdict

SEARCH_LIMIT = 1_000
"""How many of a wallet's latest transactions a search finds: a shop may have millions."""

RECENT_LABELS = 10_000
"""How many of the latest labels are looked through for their sources."""

NO_LABEL = "none"

Records = QuerySet[ScoreRecord]
Labels = QuerySet[Label]


def records_found(records: Records, term: str) -> Records:
    """The records of a transaction id, or of a wallet's latest transactions on either side."""
    found = set(Attempt.objects.filter(transaction_id=term).values_list("pk", flat=True))
    sides = {
        "source_wallet_id": ("-source_time", "-id"),
        "destination_wallet_id": ("-destination_time", "-id"),
    }
    for side, order in sides.items():
        latest = Attempt.objects.filter(Q((side, term))).order_by(*order)
        found.update(latest.values_list("pk", flat=True)[:SEARCH_LIMIT])
    return records.filter(pk__in=found)


def records_with_reason(records: Records, reason: str) -> Records:
    """Those that gave `reason`. As text, because SQLite can't look into a JSON list."""
    text = Cast("reasons", TextField())
    return records.annotate(reasons_text=text).filter(reasons_text__contains=f'"{reason}"')


def known_reasons() -> list[str]:
    """Every reason that a decision may have: those of all rule sets, then our own."""
    sources = RuleSet.objects.values_list("source", flat=True)
    rules = [rule for source in sources for rule in tomllib.loads(source).get("rule", [])]
    own = (SUPERVISED_HIGH, ANOMALY_HIGH, CONTROL_GROUP)
    return [*sorted({rule["reason"] for rule in rules}), *own]


def records_with_their_labels(records: Records) -> Records:
    """The same, each with its `verdict`: that of the last label received, None without one."""
    labels = Label.objects.filter(transaction_id=OuterRef("attempt__transaction_id"))
    return records.annotate(verdict=Subquery(labels.order_by("-id").values("verdict")[:1]))


def records_with_label(records: Records, label: str) -> Records:
    """Those whose last label is this verdict, or that have none (NO_LABEL)."""
    fraud = Exists(ConfirmedFraud.objects.filter(attempt=OuterRef("pk"), side=Side.SOURCE))
    labelled = Exists(Label.objects.filter(transaction_id=OuterRef("attempt__transaction_id")))
    if label == Verdict.FRAUD:
        return records.filter(fraud)
    if label == Verdict.LEGITIMATE:
        return records.filter(labelled, ~fraud)
    return records.filter(~labelled)


def labels_of(transaction_id: str) -> Labels:
    """What was stated about a transaction, the last received first: that one counts."""
    return Label.objects.filter(transaction_id=transaction_id).order_by("-id")


def labels_with_their_transactions(labels: Labels) -> Labels:
    """The same, each with `latest_id` of its transaction's labels, whether the transaction
    `is_known` here, and `record_id` of its decision, None where none was made."""
    same = Label.objects.filter(transaction_id=OuterRef("transaction_id"))
    attempts = Attempt.objects.filter(transaction_id=OuterRef("transaction_id"))
    return labels.annotate(
        latest_id=Subquery(same.order_by("-id").values("id")[:1]),
        is_known=Exists(attempts),
        record_id=Subquery(attempts.values("record")[:1]),
    )


def labels_that_count(labels: Labels, counting: bool) -> Labels:
    """Those that are the last received of their transactions, or those that are not."""
    later = Exists(
        Label.objects.filter(transaction_id=OuterRef("transaction_id"), id__gt=OuterRef("id"))
    )
    return labels.filter(~later if counting else later)


def labels_of_known(labels: Labels, known: bool) -> Labels:
    """Those of transactions that are known here, or of the others."""
    attempt = Exists(Attempt.objects.filter(transaction_id=OuterRef("transaction_id")))
    return labels.filter(attempt if known else ~attempt)


def recent_sources() -> list[str]:
    """The sources of the latest labels, sorted."""
    latest = Label.objects.order_by("-id").values_list("source", flat=True)[:RECENT_LABELS]
    return sorted({source for source in latest if source})


def models_described() -> list[dict[str, Any]]:
    """Every registered model: what it does and which version serves."""
    models = list(RegisteredModel.objects.all())
    serving = _serving_versions(model.name for model in models)
    return [_described(model, serving) for model in models]


def model_described(name: str) -> dict[str, Any]:
    """One registered model; of a classifier also how it is asked and what it can answer, as the
    version that serves says it, or else its definition. Raises UnknownModel."""
    try:
        model = model_by_name(name)
    except NotRegistered:
        raise UnknownModel(f"There is no model “{name}”.") from None
    facts = _described(model, _serving_versions([name]))
    if model.kind != CLASSIFIER:
        return facts
    try:
        bundle = live_classifiers.predicting(name).bundle
    except NoModel as error:
        definition = read_definition(model.definition)
        facts |= {"version": None, "reason": error.detail}
    else:
        definition = bundle.definition
        facts |= {"version": f"v{bundle.manifest.version}"}
    return facts | _asked(definition)


def _serving_versions(names: Iterable[str]) -> dict[str, str]:
    """The champion's version by the name of its model."""
    return {version.model.name: f"v{version.version}" for version in champions(names)}


def _described(model: RegisteredModel, serving: Mapping[str, str]) -> dict[str, Any]:
    return {
        "name": model.name,
        "kind": model.kind,
        "description": model.description,
        "version": serving.get(model.name),
    }


def _asked(definition: Definition) -> dict[str, Any]:
    """How a classifier is asked and what it can answer."""
    inputs = {
        name: {"required": each.default is None} | msgspec.to_builtins(each)
        for name, each in definition.inputs.items()
    }
    return {
        "inputs": inputs,
        "classes": definition.classes,
        "answer": msgspec.to_builtins(definition.answer),
    }


def classes_of(name: str) -> list[str]:
    """The classes of a classifier, as it was defined last; none of what is no classifier."""
    model = RegisteredModel.objects.filter(name=name, kind=CLASSIFIER).first()
    return read_definition(model.definition).labels if model else []
