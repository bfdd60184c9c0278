"""What serves, written beside the bundles for what has no database (engine/champions.py)."""

import logging

from django.conf import settings

from deployments.models import CHAMPION, PromotionEvent, RegisteredModel
from engine.champions import Champion, pointer_name, write_champion
from engine.errors import SentinelleError
from engine.store import PAGE_SECONDS, open_store

logger = logging.getLogger(__name__)


def pointer_write(model: str) -> bool:
    """Write which version of a model serves into the artefact store, unless that says so, or of a
    later promotion; whether it was written.

    A store that does not take it is no failure: `pointers_mend` tries again.
    """
    event = (
        PromotionEvent.objects.filter(model__name=model, alias=CHAMPION)
        .select_related("to_version")
        .first()
    )
    if event is None:
        return False
    serves = event.to_version
    champion = Champion(
        model=model,
        version=serves.version,
        location=serves.location,
        manifest_sha256=serves.manifest_sha256,
        promotion=event.pk,
        promoted_at=event.at,
    )
    seen: list[Champion] = []

    def is_ours(told: Champion) -> bool:
        seen.append(told)
        return not is_of_another_registry(told)

    try:
        store = open_store(settings.ARTIFACTS_DIR, seconds=PAGE_SECONDS)
        is_written = write_champion(store, champion, is_ours)
    except (SentinelleError, OSError) as error:
        logger.warning(
            "That %s v%s serves could not be written to %s: %s. It is tried again every minute.",
            model, serves.version, settings.ARTIFACTS_DIR, error,
        )  # fmt: skip
        return False
    if seen and is_of_another_registry(seen[-1]):
        _warn_of_another_registry(store.location, champion, seen[-1], is_written=is_written)
    return is_written


def is_of_another_registry(told: Champion) -> bool:
    """Whether the promotion that a pointer names was never made here: another registry writes to
    the same store, or did, or this one was restored from before it."""
    return not PromotionEvent.objects.filter(pk=told.promotion, model__name=told.model).exists()


def _warn_of_another_registry(
    location: str, champion: Champion, told: Champion, *, is_written: bool
) -> None:
    done = (
        "The one here is later, and was written over it."
        if is_written
        else "That is later, so nothing is written over it: if this registry is the right one, "
        "promote, or delete the file."
    )
    logger.warning(
        "%s in %s said that v%s serves, by promotion %d of another registry; here it is v%s. %s",
        pointer_name(champion.model), location, told.version, told.promotion, champion.version,
        done,
    )  # fmt: skip


def pointers_mend() -> int:
    """Write what is missing or out of date, of every model; returns how many were."""
    names = list(RegisteredModel.objects.values_list("name", flat=True))
    return sum(pointer_write(name) for name in names)
