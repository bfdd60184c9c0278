"""What serves, written beside the bundles for what has no database (engine/champions.py)."""

import logging

from django.conf import settings

from deployments.models import CHAMPION, PromotionEvent, RegisteredModel
from engine.champions import Champion, pointer_name, read_champion, write_champion
from engine.errors import SentinelleError
from engine.store import PAGE_SECONDS, Store, open_store

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
    )
    try:
        store = open_store(settings.ARTIFACTS_DIR, seconds=PAGE_SECONDS)
        is_written = write_champion(store, champion)
        if not is_written:
            _warn_of_another_registry(store, champion)
        return is_written
    except (SentinelleError, OSError) as error:
        logger.warning(
            "That %s v%s serves could not be written to %s: %s. It is tried again every minute.",
            model, serves.version, settings.ARTIFACTS_DIR, error,
        )  # fmt: skip
        return False


def is_of_another_registry(told: Champion) -> bool:
    """Whether the promotion that a pointer names was never made here: another registry writes to
    the same store, or this one was restored from before it."""
    return not PromotionEvent.objects.filter(pk=told.promotion, model__name=told.model).exists()


def _warn_of_another_registry(store: Store, champion: Champion) -> None:
    told = read_champion(store, champion.model)
    if told.promotion > champion.promotion and is_of_another_registry(told):
        logger.warning(
            "%s in %s says that v%s serves, by promotion %d of another registry; here it is v%s. "
            "Nothing is written over it: if this registry is the right one, delete it.",
            pointer_name(champion.model), store.location, told.version, told.promotion,
            champion.version,
        )  # fmt: skip


def pointers_mend() -> int:
    """Write what is missing or out of date, of every model; returns how many were."""
    names = list(RegisteredModel.objects.values_list("name", flat=True))
    return sum(pointer_write(name) for name in names)
