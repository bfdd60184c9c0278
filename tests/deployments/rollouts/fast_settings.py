"""The settings of a command that a test starts: it looks more often."""

from sentinelle.settings import *  # noqa: F403

ROLLOUT_POLL_SECONDS = 0.05
