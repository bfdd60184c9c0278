"""Every error that a person or a program outside can cause, each with a stable code.

The core raises these; `sentinelle.problems` turns a code into an HTTP status, commands print the
message. Nothing here knows about HTTP.
"""

from collections.abc import Iterable
from typing import ClassVar, NamedTuple


class FieldError(NamedTuple):
    """One fault of an input: where it is (`transaction.amount`) and what was expected."""

    field: str
    message: str


class SentinelleError(Exception):
    """An error whose `detail` may be shown to the person who caused it."""

    code: ClassVar[str] = "ERROR"

    def __init__(self, detail: str, errors: Iterable[FieldError] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)


class InvalidRequest(SentinelleError):
    """The body is not a request we understand; `errors` names every faulty field."""

    code = "INVALID_REQUEST"


class BodyTooLarge(SentinelleError):
    """The body of a request has more bytes than its address takes."""

    code = "BODY_TOO_LARGE"


class FutureTransaction(SentinelleError):
    """`created_at` is further ahead of the server's clock than is allowed."""

    code = "FUTURE_TRANSACTION"


class TransactionConflict(SentinelleError):
    """The transaction id was already used for another transaction."""

    code = "TRANSACTION_CONFLICT"


class NoModel(SentinelleError):
    """No version is live, so there is no decision to give."""

    code = "NO_MODEL"


class UnknownModel(SentinelleError):
    """There is no classifier of that name."""

    code = "UNKNOWN_MODEL"


class PredictionConflict(SentinelleError):
    """The idempotency key was already used for a prediction from another request."""

    code = "PREDICTION_CONFLICT"


class InvalidDefinition(SentinelleError):
    """The definition of a classifier is not valid; `errors` names the places."""

    code = "INVALID_DEFINITION"


class InvalidRuleSet(SentinelleError):
    """A rule set does not compile; the detail names the rule and the place."""

    code = "INVALID_RULE_SET"


class InvalidBundle(SentinelleError):
    """A bundle is incomplete, was changed since it was written, or has an unknown protocol."""

    code = "INVALID_BUNDLE"


class HistoryConflict(SentinelleError):
    """Past transactions can't be added to history, because they would contradict what is there."""

    code = "HISTORY_CONFLICT"


class InvalidDataset(SentinelleError):
    """Data can't be imported, trained on or scored; the detail says what is wrong."""

    code = "INVALID_DATASET"


class InvalidLabels(SentinelleError):
    """A file of labels can't be imported; the detail says what is wrong with it."""

    code = "INVALID_LABELS"


class ObjectMissing(SentinelleError):
    """The object store has no object of that name."""

    code = "OBJECT_MISSING"


class StoreUnavailable(SentinelleError):
    """The object store did not answer in time or refused us."""

    code = "STORE_UNAVAILABLE"


class ObjectDamaged(StoreUnavailable):
    """What arrived, at the object store or from it, is not what was sent; tried several times."""

    code = "OBJECT_DAMAGED"


class RunRefused(SentinelleError):
    """A training run can't be created, cancelled or started again; `errors` names the fields."""

    code = "RUN_REFUSED"


class RunConflict(RunRefused):
    """The version of a run is taken, or the run has ended already."""

    code = "RUN_CONFLICT"


class RegistryError(SentinelleError):
    """What was asked of the registry of versions, rule sets and keys is refused."""

    code = "REGISTRY_REFUSED"


class NotRegistered(RegistryError):
    """There is no such model, version or rule set."""

    code = "NOT_REGISTERED"


class NothingToRollBack(RegistryError):
    """No earlier version or rule set is left to go back to."""

    code = "NOTHING_TO_ROLL_BACK"


class RegistryMoved(RegistryError):
    """Someone else moved the alias after the caller looked at it."""

    code = "REGISTRY_MOVED"


class UnknownTransaction(SentinelleError):
    """An outcome is about a transaction that was never scored here."""

    code = "UNKNOWN_TRANSACTION"


class OutcomeConflict(SentinelleError):
    """Another outcome of the same transaction was received before."""

    code = "OUTCOME_CONFLICT"


class IdentityUnavailable(SentinelleError):
    """Who calls can't be checked now, because the issuer of the token does not answer."""

    code = "IDENTITY_UNAVAILABLE"
