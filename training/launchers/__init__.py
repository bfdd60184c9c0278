"""Where a training run executes. Every launcher has the same four verbs."""

from typing import Any, Protocol

from engine.errors import RunRefused
from engine.store import Store
from training.launchers.local import LocalLauncher


class Launcher(Protocol):
    """Starts the training program on a run folder and watches it. It knows no database."""

    def start(self, run_folder: str) -> Any:
        """Start the program on the folder at this location; return a handle to it."""

    def poll(self, handle: Any) -> str | None:
        """Return None while the program runs, then how it ended, in words (“exit status 0”)."""

    def cancel(self, handle: Any) -> None:
        """End the program and everything it started; nothing happens when it has ended."""

    def logs(self, folder: Store) -> str:
        """Return what the program has logged so far."""


_LAUNCHERS: dict[str, Launcher] = {"local": LocalLauncher()}


def launcher_named(name: str) -> Launcher:
    """Raises RunRefused for a name that no launcher has."""
    try:
        return _LAUNCHERS[name]
    except KeyError:
        known = ", ".join(_LAUNCHERS)
        raise RunRefused(f"There is no launcher “{name}”; there is {known}.") from None
