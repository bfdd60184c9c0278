"""Waiting for Google to make something what was asked, a look at a time."""

import time

from deployments.gcp.errors import CloudError


class Patience:
    """How long something may take, and how long the pause between two looks at it is.

    Args:
        what: what was being done (“Deploying the revision engine-v1”).
        within_s: in all.
        pause_s: between two looks.
    """

    def __init__(self, what: str, within_s: float, pause_s: float) -> None:
        self.what, self.within_s, self.pause_s = what, within_s, pause_s
        self._began = time.monotonic()

    @property
    def waited_s(self) -> float:
        """So far."""
        return time.monotonic() - self._began

    def pause(self) -> None:
        """Sleep until the next look; raises CloudError, which is transient, when it took too
        long."""
        if self.waited_s > self.within_s:
            raise CloudError(
                f"{self.what}: Google has not finished it within {self.within_s:.0f} s. It is "
                "looked at again.",
                is_transient=True,
                reason="network",
            )
        time.sleep(self.pause_s)
