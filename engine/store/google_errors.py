"""What goes wrong at Google Cloud Storage, in words and with what to do."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from engine.errors import ObjectDamaged, ObjectMissing, StoreUnavailable

DAMAGE_ATTEMPTS = 3
"""How often a transfer is made before it counts as damaged."""

# What a bucket says that was told another checksum than that of what it received.
_REFUSED_CHECKSUM = re.compile("crc32c|md5|hash|checksum", re.IGNORECASE)

# Whoever has the address of an upload's session may write, without an account.
_SESSION = re.compile(r"upload_id=[^\s&'\"<>)]+")


def told(error: object) -> str:
    """An error's words without the address of an upload's session."""
    return _SESSION.sub("upload_id=…", str(error))


@contextmanager
def translated(where: str, missing: Exception | None = None) -> Iterator[None]:
    """Turn the errors of Google's storage client into ours.

    Args:
        where: what was read or written, as people write it.
        missing: raised when that is not there; ObjectMissing unless given.

    Raises:
        StoreUnavailable: with Google's words, and with what to do where that is known.
        ObjectDamaged: it did not arrive as it was sent.
    """
    import requests
    import urllib3
    from google.api_core.exceptions import (
        BadRequest,
        Forbidden,
        GoogleAPICallError,
        NotFound,
        PreconditionFailed,
        RetryError,
    )
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.storage.exceptions import DataCorruption

    try:
        yield
    except NotFound:
        raise (missing or ObjectMissing(f"There is no {where}.")) from None
    except PreconditionFailed as error:
        raise ObjectDamaged(f"{where} changed while it was transferred: {told(error)}") from _cause(
            error
        )
    except DataCorruption as error:
        raise damaged(where, told(error)) from _cause(error)
    except BadRequest as error:
        if _REFUSED_CHECKSUM.search(str(error)):
            raise damaged(where, told(error)) from _cause(error)
        raise StoreUnavailable(f"The bucket refused {where}: {told(error)}") from _cause(error)
    except Forbidden as error:
        raise StoreUnavailable(
            f"Access to {where} was refused: {told(error)}. Give this process's service account "
            "the role Storage Object User (roles/storage.objectUser) on the bucket."
        ) from _cause(error)
    except (
        GoogleAPICallError,
        RetryError,
        GoogleAuthError,
        requests.RequestException,
        urllib3.exceptions.HTTPError,
    ) as error:
        raise StoreUnavailable(f"The bucket can't be used for {where}: {told(error)}") from _cause(
            error
        )


def _cause(error: Exception) -> Exception | None:
    """The error, for the log, unless that would tell the address of a session."""
    return error if told(error) == str(error) else None


def damaged(name: str, how: str) -> ObjectDamaged:
    """The error of a transfer that changed an object, as often as it was made."""
    return ObjectDamaged(f"The transfer of {name} damaged it, {DAMAGE_ATTEMPTS} times: {how}")
