"""Changes of the registry. Every one runs in a transaction of its own and leaves an event.

Moves of one model's aliases are made one after the other, under a lock on the model's row, so the
events of an alias form a chain. Bundles are verified before that lock is taken: reading one from a
bucket takes seconds, and a version never changes.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from django.contrib.auth.models import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.utils import timezone

from deployments import artifacts, pointers, selectors
from deployments.models import (
    CHALLENGER,
    CHAMPION,
    Action,
    Alias,
    AliasEvent,
    ApiKey,
    Kind,
    ModelVersion,
    PromotionEvent,
    RegisteredModel,
    RuleSet,
    RuleSetAlias,
    RuleSetEvent,
    Scope,
)
from engine.classifier.bundle import ClassifierBundle
from engine.classifier.definition import read_definition
from engine.errors import FieldError, InvalidBundle, RegistryError, RegistryMoved
from engine.loading import AnyBundle

User = AbstractBaseUser | None
EventT = TypeVar("EventT", bound=AliasEvent)
MOMENT, LONGEST_MOMENT = "a probe", timedelta(minutes=10)
"""Who made the keys of `api_key_for_a_moment`, and how long one is ever needed."""


def model_register(*, source: str, by: str) -> RegisteredModel:
    """Register the classifier that the TOML text `source` defines, or give the one of its name this
    definition. Versions keep the definition that they were trained by; the next run takes this one.

    Raises InvalidDefinition naming the places; RegistryError when the name is another kind's.
    """
    definition = read_definition(source)
    facts = {"definition": source, "description": definition.description}
    who = {"defined_at": timezone.now(), "defined_by": by}
    with transaction.atomic():
        model, is_new = RegisteredModel.objects.select_for_update().get_or_create(
            name=definition.name, defaults={"kind": Kind.CLASSIFIER, **facts, **who}
        )
        if not model.is_classifier:
            message = f"“{model.name}” is the name of a model of another kind: choose another."
            raise RegistryError(message, [FieldError("name", message)])
        if not is_new and model.definition != source:
            for name, value in {**facts, **who}.items():
                setattr(model, name, value)
            model.save()
    return model


def version_register(**facts: Any) -> ModelVersion:
    """Record a published bundle as a version, after verifying it: `version_verified`, inserted.

    Raises RegistryError when the version exists or a field is wrong, InvalidBundle when the bundle
    is not the one that is meant.
    """
    row = version_verified(**facts)
    version_insert(row)
    return row


def version_verified(
    *,
    model: RegisteredModel,
    version: str,
    location: str,
    manifest_sha256: str,
    metrics: Mapping[str, Any],
    deployable: bool,
    training_run_id: UUID | None,
    rule_set: RuleSet | None,
    created_by: str,
) -> ModelVersion:
    """A version's row, not yet inserted, of a published bundle that was verified for it: reading
    one from a bucket takes seconds, and is done before a transaction rather than in it.

    Its size and its thresholds are read from the bundle.

    Raises InvalidBundle when the bundle at `location` is not the one whose manifest has
    `manifest_sha256`, or is of something else.
    """
    bundle = artifacts.verify(location, manifest_sha256)
    _check_identity(bundle, model, version, rule_set)
    return ModelVersion(
        model=model,
        version=version,
        location=location,
        manifest_sha256=manifest_sha256,
        size_bytes=sum(file.size for file in bundle.manifest.files.values()),
        thresholds=_thresholds(bundle),
        metrics=dict(metrics),
        deployable=deployable,
        training_run_id=training_run_id,
        rule_set=rule_set,
        created_by=created_by,
    )


def version_insert(row: ModelVersion) -> None:
    """Insert a verified version. Raises RegistryError when it exists or a field is wrong."""
    _insert(row)


def promote(
    *,
    model: RegisteredModel,
    version: str,
    actor: str,
    user: User = None,
    reason: str,
    rule_set: RuleSet | None = None,
    seen_champion: str | None = None,
) -> PromotionEvent:
    """Make a version the champion, and `rule_set`, when given, the rules that serve with it.

    Args:
        version: its number, with or without a leading v.
        actor: who asks, for the event; `user` as well when it is someone with an account.
        reason: why; not blank.
        rule_set: moved in the same step; nothing moves when it serves already.
        seen_champion: the number of the version that the caller believes serves, "" for none;
            None to promote whatever serves.

    Raises:
        NotRegistered: there is no such version.
        RegistryMoved: another version than `seen_champion` serves by now.
        RegistryError: not for deployment, serving already, or no reason given.
        InvalidBundle, InvalidRuleSet: what would serve does not verify.
    """
    reason = _checked_reason(reason)
    target = selectors.version_by_semver(model, version)
    if not target.deployable:
        raise RegistryError(
            f"v{target.version} was trained on a sample, to be looked at and not to be deployed. "
            f"Train it on the whole data set under another version number."
        )
    if rule_set is not None:
        _refuse_rules(model)
    artifacts.verify(target.location, target.manifest_sha256)
    if rule_set is not None:
        artifacts.verify_rules(rule_set)
    with transaction.atomic():
        _lock(model)
        alias = Alias.objects.filter(model=model, name=CHAMPION).select_related("version").first()
        champion = alias.version if alias else None
        _check_seen(champion, seen_champion)
        if champion == target:
            raise RegistryError(f"v{target.version} is the champion of {model.name} already.")
        event = _move_champion(
            Action.PROMOTE, model, champion, target, actor=actor, user=user, reason=reason
        )
        if rule_set is not None:
            _serve_rules_with(event, rule_set)
    return event


def version_propose(*, version: ModelVersion, actor: str, reason: str) -> PromotionEvent:
    """Make a version the challenger: the one that a person is asked to promote. What serves stays.

    Raises RegistryError: not for deployment, serving or proposed already, or no reason given.
    """
    reason = _checked_reason(reason)
    if not version.deployable:
        raise RegistryError(
            f"v{version.version} was trained on a sample, to be looked at and not to be deployed."
        )
    model = version.model
    with transaction.atomic():
        _lock(model)
        standing = {
            alias.name: alias.version
            for alias in Alias.objects.filter(model=model).select_related("version")
        }
        before = standing.get(CHALLENGER)
        if standing.get(CHAMPION) == version:
            raise RegistryError(f"v{version.version} is the champion of {model.name} already.")
        if before == version:
            raise RegistryError(f"v{version.version} of {model.name} was proposed already.")
        Alias.objects.update_or_create(model=model, name=CHALLENGER, defaults={"version": version})
        return _recorded(
            PromotionEvent(
                action=Action.PROMOTE,
                alias=CHALLENGER,
                model=model,
                from_version=before,
                to_version=version,
                actor=actor,
                reason=reason,
            )
        )


def rollback(
    *,
    model: RegisteredModel,
    actor: str,
    user: User = None,
    reason: str,
    seen_champion: str | None = None,
) -> PromotionEvent:
    """Undo the latest promotion that is not undone yet; a second rollback goes further back.

    The rule set goes back too when it moved in that same promotion and has not moved since.

    Raises:
        NothingToRollBack: no earlier version is left.
        RegistryMoved: another version than `seen_champion` serves by now, or someone moved the
            champion while the earlier bundle was being verified.
        InvalidBundle, InvalidRuleSet: what would serve does not verify.
    """
    reason = _checked_reason(reason)
    seen = selectors.rollback_step(model)
    artifacts.verify(seen.to_version.location, seen.to_version.manifest_sha256)
    if seen.rules is not None and seen.rules.from_rule_set is not None:
        artifacts.verify_rules(seen.rules.from_rule_set)
    with transaction.atomic():
        _lock(model)
        step = selectors.rollback_step(model)
        champion = Alias.objects.select_related("version").get(model=model, name=CHAMPION).version
        _check_seen(champion, seen_champion)
        if step != seen:
            raise RegistryMoved(f"{model.name} was moved meanwhile; look at what serves now.")
        event = _move_champion(
            Action.ROLLBACK,
            model,
            champion,
            step.to_version,
            actor=actor,
            user=user,
            reason=reason,
            undoes=step.promotion,
        )
        if step.rules is not None:
            _undo_rules(step.rules, actor=actor, user=user, reason=reason, promotion=event)
    return event


def rule_set_create(*, name: str, source: str, created_by: str) -> RuleSet:
    """Add a rule set, which nothing serves yet; raises InvalidRuleSet naming the rule and the
    place, RegistryError when the name is taken or not a name."""
    row = RuleSet(
        name=name,
        source=source,
        sha256=artifacts.compile_rules(source).sha256,
        created_by=created_by,
    )
    _insert(row)
    return row


def rule_set_promote(
    *, model: RegisteredModel, rule_set: RuleSet, actor: str, user: User = None, reason: str
) -> RuleSetEvent:
    """Serve a model with a rule set; raises RegistryError when it serves already."""
    reason = _checked_reason(reason)
    _refuse_rules(model)
    artifacts.verify_rules(rule_set)
    with transaction.atomic():
        _lock(model)
        serving = _serving_rules(model)
        if serving == rule_set:
            raise RegistryError(f"{model.name} is served with “{rule_set.name}” already.")
        return _move_rules(
            Action.PROMOTE, model, serving, rule_set, actor=actor, user=user, reason=reason
        )


def rule_set_rollback(
    *,
    model: RegisteredModel,
    actor: str,
    user: User = None,
    reason: str,
    seen_rule_set: str | None = None,
) -> RuleSetEvent:
    """Go back to the rule set before; a second rollback goes further back.

    Raises NothingToRollBack, or RegistryMoved when another rule set serves by now than the one
    named `seen_rule_set` (None to go back from whatever serves).
    """
    reason = _checked_reason(reason)
    with transaction.atomic():
        _lock(model)
        undone = selectors.rule_set_rollback_step(model)
        serving = undone.to_rule_set.name
        if seen_rule_set not in (None, serving):
            raise RegistryMoved(f"The rules were moved meanwhile: “{serving}” serves. Look again.")
        return _undo_rules(undone, actor=actor, user=user, reason=reason)


def api_key_create(*, name: str, scopes: list[str], created_by: str) -> tuple[ApiKey, str]:
    """Make a key; returns its row and the key itself, which is kept nowhere."""
    unknown = sorted(set(scopes) - set(Scope.values))
    if unknown or not scopes:
        message = f"Choose from {', '.join(Scope.values)}."
        raise RegistryError(
            f"{', '.join(unknown) or 'No scope'}: not scopes of a key. {message}",
            [FieldError("scopes", message)],
        )
    plain_key = ApiKey.generate()
    row = ApiKey(
        name=name,
        prefix=plain_key[:10],
        sha256=ApiKey.digest(plain_key),
        scopes=[scope for scope in Scope.values if scope in scopes],
        created_by=created_by,
    )
    _insert(row)
    return row, plain_key


@contextmanager
def api_key_for_a_moment(*, name: str) -> Iterator[str]:
    """A key that scores for as long as the block takes; nothing of it is left. One whose process
    was killed goes with the next."""
    ours = ApiKey.objects.filter(created_by=MOMENT)
    ours.filter(created_at__lt=timezone.now() - LONGEST_MOMENT).delete()
    row, plain_key = api_key_create(name=name, scopes=[Scope.SCORE.value], created_by=MOMENT)
    try:
        yield plain_key
    finally:
        row.delete()


def api_key_revoke(*, key: ApiKey) -> bool:
    """Make a key invalid for good; returns False when it was so already. Servers that hold it in
    their cache stop within settings.KEY_CACHE_SECONDS."""
    return bool(ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=timezone.now()))


def _refuse_rules(model: RegisteredModel) -> None:
    if model.is_classifier:
        message = f"{model.name} is a classifier: it is served without rules."
        raise RegistryError(message, [FieldError("rules", message)])


def _check_identity(
    bundle: AnyBundle, model: RegisteredModel, version: str, rule_set: RuleSet | None
) -> None:
    manifest = bundle.manifest
    if (manifest.model, manifest.version) != (model.name, version):
        raise InvalidBundle(
            f"The bundle is {manifest.model} v{manifest.version}, not {model.name} v{version}."
        )
    if manifest.kind != model.kind:
        raise InvalidBundle(f"The bundle is of the kind {manifest.kind}, not {model.kind}.")
    if isinstance(bundle, ClassifierBundle):
        return
    if rule_set is None or bundle.manifest.rule_set_sha256 != rule_set.sha256:
        raise InvalidBundle(f"The bundle was not tuned with the rule set “{rule_set}”.")


def _thresholds(bundle: AnyBundle) -> dict[str, float]:
    """Risk scores from which to REVIEW and to BLOCK; a classifier has none."""
    if isinstance(bundle, ClassifierBundle):
        return {}
    return {"review": bundle.policy.review, "block": bundle.policy.block}


def _checked_reason(reason: str) -> str:
    reason = reason.strip()
    if not reason:
        message = "Say why: the history keeps it."
        raise RegistryError(message, [FieldError("reason", message)])
    return reason


def _check_seen(champion: ModelVersion | None, seen: str | None) -> None:
    number = champion.version if champion else ""
    if seen is not None and seen != number:
        now = f"v{number} serves" if number else "nothing serves"
        raise RegistryMoved(f"The champion was moved meanwhile: {now} now. Look again.")


def _lock(model: RegisteredModel) -> None:
    """Make moves of this model's aliases wait for one another. NO KEY: registering a version of
    the model, which refers to its row, needs not wait."""
    RegisteredModel.objects.select_for_update(no_key=True).get(pk=model.pk)


def _insert(row: models.Model) -> None:
    """Validate and insert; faults become a RegistryError that names every field."""
    try:
        row.full_clean()
    except ValidationError as fault:
        errors = [
            FieldError(field, " ".join(messages)) for field, messages in fault.message_dict.items()
        ]
        raise RegistryError(
            " ".join(f"{error.field}: {error.message}" for error in errors), errors
        ) from fault
    row.save()


def _move_champion(
    action: Action,
    model: RegisteredModel,
    before: ModelVersion | None,
    after: ModelVersion,
    **who: Any,
) -> PromotionEvent:
    Alias.objects.update_or_create(model=model, name=CHAMPION, defaults={"version": after})
    event = _recorded(
        PromotionEvent(action=action, model=model, from_version=before, to_version=after, **who)
    )
    transaction.on_commit(partial(pointers.pointer_write, model.name))
    return event


def _serving_rules(model: RegisteredModel) -> RuleSet:
    return RuleSetAlias.objects.select_related("rule_set").get(model=model).rule_set


def _move_rules(
    action: Action, model: RegisteredModel, before: RuleSet, after: RuleSet, **who: Any
) -> RuleSetEvent:
    RuleSetAlias.objects.update_or_create(model=model, defaults={"rule_set": after})
    return _recorded(
        RuleSetEvent(action=action, model=model, from_rule_set=before, to_rule_set=after, **who)
    )


def _serve_rules_with(event: PromotionEvent, rule_set: RuleSet) -> None:
    serving = _serving_rules(event.model)
    if serving != rule_set:
        _move_rules(
            Action.PROMOTE,
            event.model,
            serving,
            rule_set,
            actor=event.actor,
            user=event.user,
            reason=event.reason,
            promotion=event,
        )


def _undo_rules(undone: RuleSetEvent, **who: Any) -> RuleSetEvent:
    """Go back to where `undone`, a promotion that has a rule set before it, came from."""
    assert undone.from_rule_set is not None
    artifacts.verify_rules(undone.from_rule_set)
    return _move_rules(
        Action.ROLLBACK,
        undone.model,
        undone.to_rule_set,
        undone.from_rule_set,
        undoes=undone,
        **who,
    )


def _recorded(event: EventT) -> EventT:
    event.full_clean()
    event.save()
    return event
