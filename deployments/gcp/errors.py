"""What went wrong at Google, in Google's words and with what to do."""

from engine.errors import SentinelleError


class CloudError(SentinelleError):
    """Google refused a call, or could not be reached.

    `is_transient` when the same call may succeed later without anybody doing anything.
    """

    code = "CLOUD_ERROR"

    def __init__(self, detail: str, *, is_transient: bool = False, reason: str = "") -> None:
        super().__init__(detail)
        self.is_transient = is_transient
        self.reason = reason
        """A word that callers branch on: `not_found`, `exists`, `quota`, `permission`, `image`,
        `capacity`, `network`, `conflict`, or empty."""
