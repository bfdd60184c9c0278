"""Reads of the registry."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from django.db.models import Count, FilteredRelation, OuterRef, Q, QuerySet, Subquery

from deployments.models import (
    CHALLENGER,
    CHAMPION,
    Action,
    Alias,
    ApiKey,
    ModelVersion,
    PromotionEvent,
    RegisteredModel,
    RuleSet,
    RuleSetAlias,
    RuleSetEvent,
)
from engine.errors import NothingToRollBack, NotRegistered


class LivePointer(NamedTuple):
    """What serves for a model: the champion, None before the first promotion, and the rules, None
    for a classifier."""

    version: ModelVersion | None
    rule_set: RuleSet | None

    @property
    def rules(self) -> RuleSet:
        """The rules of a model that scores transactions; raises NotRegistered for a classifier."""
        if self.rule_set is None:
            raise NotRegistered("No rules serve: a classifier does not score transactions.")
        return self.rule_set


class RollbackStep(NamedTuple):
    """What a rollback would do: undo `promotion`, and `rules` with it if the rule set moved in
    the same step and has not moved since."""

    promotion: PromotionEvent
    to_version: ModelVersion
    rules: RuleSetEvent | None


class Serving(NamedTuple):
    """What serves for a model, what the two rollbacks would do, None when nothing is left, and the
    version that is proposed, None when none is. A classifier has no rule set."""

    model: RegisteredModel
    version: ModelVersion | None
    rule_set: RuleSet | None
    back: RollbackStep | None
    rules_back: RuleSetEvent | None
    proposal: PromotionEvent | None


def model_by_name(name: str) -> RegisteredModel:
    """Return the registered model; raises NotRegistered, naming those that exist."""
    model = RegisteredModel.objects.filter(name=name).first()
    if model is None:
        known = ", ".join(RegisteredModel.objects.values_list("name", flat=True)) or "none"
        raise NotRegistered(
            f"There is no model “{name}”. Registered models: {known}. A classifier is registered "
            f"from its definition: manage.py register_model FILE.toml"
        )
    return model


def models_listed() -> QuerySet[Any]:
    """Every model with `champion_number`, None before the first promotion, and `versions_count`."""
    champion = Alias.objects.filter(model=OuterRef("pk"), name=CHAMPION)
    models: QuerySet[Any] = RegisteredModel.objects.annotate(
        champion_number=Subquery(champion.values("version__version")),
        versions_count=Count("versions"),
    )
    return models.order_by("name")


def version_by_semver(model: RegisteredModel, version: str) -> ModelVersion:
    """Return a version of `model` by its number, with or without a leading v; raises
    NotRegistered, naming the most recent ones."""
    number = version.removeprefix("v")
    found: ModelVersion | None = (
        ModelVersion.objects.filter(model=model, version=number)
        .select_related("model", "rule_set")
        .first()
    )
    if found is None:
        recent = ModelVersion.objects.filter(model=model).values_list("version", flat=True)[:5]
        known = ", ".join(f"v{each}" for each in recent) or "none yet"
        raise NotRegistered(
            f"{model.name} v{number} is not registered. A training run registers its version when "
            f"it succeeds; one that failed, was cancelled or still runs has none. "
            f"Most recent versions: {known}."
        )
    return found


def rule_set_by_name(name: str) -> RuleSet:
    """Return the rule set; raises NotRegistered, naming the most recent ones."""
    found: RuleSet | None = RuleSet.objects.filter(name=name).first()
    if found is None:
        known = ", ".join(RuleSet.objects.values_list("name", flat=True)[:8])
        raise NotRegistered(f"There is no rule set “{name}”. Most recent rule sets: {known}.")
    return found


def rule_sets() -> QuerySet[RuleSet]:
    """Every rule set, the newest first, without its source."""
    return RuleSet.objects.defer("source")


def live_pointer(model_name: str) -> LivePointer:
    """What serves for a model, in one query; raises NotRegistered for an unknown model."""
    model = (
        RegisteredModel.objects.filter(name=model_name)
        .annotate(champion=FilteredRelation("aliases", condition=Q(aliases__name=CHAMPION)))
        .select_related(  # type: ignore[misc]  # django-stubs does not know filtered relations
            "rule_set_alias__rule_set", "champion__version__model", "champion__version__rule_set"
        )
        .first()
    )
    if model is None:
        raise NotRegistered(f"There is no model “{model_name}”.")
    # Django leaves the attribute out when the filtered relation is empty.
    alias: Alias | None = getattr(model, "champion", None)
    # Likewise, a model without rules.
    rules: RuleSetAlias | None = getattr(model, "rule_set_alias", None)
    return LivePointer(alias.version if alias else None, rules.rule_set if rules else None)


def champions(names: Iterable[str]) -> list[ModelVersion]:
    """The champions of the models of these names that have one, with their models, in one query."""
    aliases = Alias.objects.filter(name=CHAMPION, model__name__in=list(names))
    return [alias.version for alias in aliases.select_related("version__model")]


def rollback_step(model: RegisteredModel) -> RollbackStep:
    """What a rollback of the champion would do; raises NothingToRollBack."""
    promotion = (
        PromotionEvent.objects.filter(
            model=model, alias=CHAMPION, action=Action.PROMOTE, undone_by=None
        )
        .select_related("from_version__rule_set", "from_version__model", "to_version")
        .first()
    )
    if promotion is None:
        raise NothingToRollBack(f"{model.name} has no champion, so there is nothing to roll back.")
    if promotion.from_version is None:
        raise NothingToRollBack(
            f"v{promotion.to_version.version} is the first champion of {model.name} that is left: "
            f"there is no earlier version to go back to."
        )
    rules = _standing_rule_sets(model).first()
    with_it = rules is not None and rules.promotion_id == promotion.pk
    return RollbackStep(promotion, promotion.from_version, rules if with_it else None)


def serving() -> list[Serving]:
    """What serves for each model, and where a rollback would lead."""
    return [_serving(model) for model in RegisteredModel.objects.all()]


def _serving(model: RegisteredModel) -> Serving:
    pointer = live_pointer(model.name)
    try:
        back = rollback_step(model)
    except NothingToRollBack:
        back = None
    try:
        rules_back = rule_set_rollback_step(model)
    except NothingToRollBack:
        rules_back = None
    return Serving(
        model, pointer.version, pointer.rule_set, back, rules_back, standing_proposal(model)
    )


def standing_proposal(model: RegisteredModel) -> PromotionEvent | None:
    """The proposal that waits for a person: the last one, unless its version was promoted since."""
    last = (
        PromotionEvent.objects.filter(model=model, alias=CHALLENGER)
        .select_related("to_version")
        .first()
    )
    if last is None:
        return None
    promoted = PromotionEvent.objects.filter(
        model=model, alias=CHAMPION, to_version=last.to_version, pk__gt=last.pk
    )
    return None if promoted.exists() else last


def versions_beside_champion() -> QuerySet[Any]:
    """Every version with its model's champion, `champion_id`, `champion_number` and
    `champion_metrics`, and its `challenger_id`."""
    aliases = Alias.objects.filter(model=OuterRef("model"))
    champion = aliases.filter(name=CHAMPION)
    versions: QuerySet[Any] = ModelVersion.objects.annotate(
        champion_id=Subquery(champion.values("version_id")),
        champion_number=Subquery(champion.values("version__version")),
        champion_metrics=Subquery(champion.values("version__metrics")),
        challenger_id=Subquery(aliases.filter(name=CHALLENGER).values("version_id")),
    )
    return versions.select_related("model", "rule_set")


def rule_set_rollback_step(model: RegisteredModel) -> RuleSetEvent:
    """The promotion of a rule set that a rollback would undo; raises NothingToRollBack."""
    event = _standing_rule_sets(model).first()
    if event is None or event.from_rule_set is None:
        raise NothingToRollBack(
            f"No earlier rule set of {model.name} is left to go back to. "
            f"Promote the one that you want instead."
        )
    return event


def _standing_rule_sets(model: RegisteredModel) -> QuerySet[RuleSetEvent]:
    """The promotions of rule sets that no rollback has undone, the latest first."""
    return RuleSetEvent.objects.filter(
        model=model, action=Action.PROMOTE, undone_by=None
    ).select_related("from_rule_set", "to_rule_set")


def any_api_key() -> bool:
    """Whether a key was ever made, revoked ones included."""
    return ApiKey.objects.exists()


def api_key_find(plain_key: str) -> ApiKey | None:
    """The key that is valid now, or None."""
    return ApiKey.objects.filter(sha256=ApiKey.digest(plain_key), revoked_at=None).first()
