"""Why a rollout, or a change of a service, is refused."""

from engine.errors import SentinelleError


class RolloutRefused(SentinelleError):
    """A rollout can't be started, gone on with or undone; `errors` names the fields."""

    code = "ROLLOUT_REFUSED"


class RolloutFailed(SentinelleError):
    """A step of a rollout has found what no later look will mend."""

    code = "ROLLOUT_FAILED"
