"""What serves, written beside the bundles for what has no database (engine/champions.py)."""

import logging

from django.conf import settings

from deployments.models import CHAMPION, PromotionEvent, RegisteredModel
from engine.champions import Champion, write_champion
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
    )
    try:
        return write_champion(open_store(settings.ARTIFACTS_DIR, seconds=PAGE_SECONDS), champion)
    except (SentinelleError, OSError) as error:
        logger.warning(
            "That %s v%s serves could not be written to %s: %s. It is tried again every minute.",
            model, serves.version, settings.ARTIFACTS_DIR, error,
        )  # fmt: skip
        return False


def pointers_mend() -> int:
    """Write what is missing or out of date, of every model; returns how many were."""
    names = list(RegisteredModel.objects.values_list("name", flat=True))
    return sum(pointer_write(name) for name in names)
