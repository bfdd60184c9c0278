"""Where a training run executes. Every launcher has the same five verbs, see base.py."""

from importlib import import_module

from engine.errors import FieldError, RunRefused
from training.launchers.base import Launch, Launcher, PlaceBusy, Seen

__all__ = ["Launch", "Launcher", "PlaceBusy", "Seen", "launcher_named"]

# By name and imported when used: a web process that trains nothing pays for none.
CLASSES = {
    "local": "training.launchers.local.LocalLauncher",
    "cloud-run": "training.launchers.cloud_run.CloudRunLauncher",
    "vm": "training.launchers.vm.VmLauncher",
}
_LAUNCHERS: dict[str, Launcher] = {}


def launcher_named(name: str) -> Launcher:
    """The launcher of that name, one a process. Raises RunRefused when there is none."""
    if name not in _LAUNCHERS:
        if name not in CLASSES:
            known = ", ".join(CLASSES)
            message = f"There is no launcher “{name}”; there is {known}."
            raise RunRefused(message, [FieldError("launcher", message)])
        module, _, kind = CLASSES[name].rpartition(".")
        _LAUNCHERS[name] = getattr(import_module(module), kind)()
    return _LAUNCHERS[name]
