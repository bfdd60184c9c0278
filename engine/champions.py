"""Which version serves, for what has no database: `MODEL/champion.json` beside the bundles.

The registry writes it after each promotion; the function that serves a classifier reads it.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import msgspec

from engine.errors import InvalidBundle, NoModel, ObjectMissing
from engine.store import Store

POINTER: Final = "champion.json"


class Champion(msgspec.Struct, frozen=True, kw_only=True):
    """Where the champion of a model is, and by what digest it is known."""

    model: str
    version: str
    location: str
    manifest_sha256: str
    promotion: int
    """Number of the promotion that made it so: of one registry, later ones are higher."""
    promoted_at: datetime = datetime.min.replace(tzinfo=UTC)
    """When that was, which tells of two registries which was later."""


def pointer_name(model: str) -> str:
    """The object that says it, in the store of the bundles."""
    return f"{model}/{POINTER}"


def read_champion(store: Store, model: str) -> Champion:
    """Raises NoModel when nothing was promoted, InvalidBundle when it can't be read,
    StoreUnavailable."""
    try:
        champion = msgspec.json.decode(store.read(pointer_name(model)), type=Champion)
    except ObjectMissing:
        raise NoModel(f"No version of “{model}” has been promoted.") from None
    except msgspec.MsgspecError as error:
        raise InvalidBundle(f"{pointer_name(model)} can't be read: {error}") from None
    if champion.model != model:
        raise InvalidBundle(f"{pointer_name(model)} is that of “{champion.model}”.")
    return champion


def write_champion(
    store: Store, champion: Champion, is_ours: Callable[[Champion], bool] | None = None
) -> bool:
    """Write it, unless it is there already or that of a later promotion is; whether it was written.

    Args:
        is_ours: whether another one is of the same registry, so that their numbers can be
            compared, and not their times; taken to be so without it.

    Raises StoreUnavailable.
    """
    new = msgspec.json.encode(champion)

    def is_later(told: Champion) -> bool:
        if is_ours is None or is_ours(told):
            return told.promotion > champion.promotion
        return told.promoted_at > champion.promoted_at

    def chosen(old: bytes | None) -> bytes | None:
        told = _decoded(old)
        return None if old == new or (told is not None and is_later(told)) else new

    return store.change(pointer_name(champion.model), chosen)


def _decoded(pointer: bytes | None) -> Champion | None:
    """What is stored; None when nothing is, or it can't be read."""
    try:
        return None if pointer is None else msgspec.json.decode(pointer, type=Champion)
    except msgspec.MsgspecError:
        return None
