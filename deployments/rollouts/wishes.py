"""What a service is wished to be: its size, its scaling, who may call it, its variables."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from deployments.gcp.limits import format_memory
from deployments.rollouts.errors import RolloutRefused
from engine.errors import FieldError

OURS = (
    "MODEL_VERSION", "ARTIFACTS_DIR", "BUCKET_NAME", "DATA_DIR", "RUNS_DIR", "DATABASE_URL",
    "GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_REGION", "HTTPS", "TRUST_FORWARDED_PROTO", "PORT",
)  # fmt: skip
SECRETS = ("SECRET_KEY", "DB_PASSWORD", "REDIS_URL")
"""What is only ever given by a reference to Secret Manager."""


class Wishes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of one service. What is not said is as here."""

    cpu: int = 2
    memory_mb: int = 2048
    timeout_s: int = 300
    min_instances: int = 0
    max_instances: int = 10
    concurrency: int = 16
    """Requests at a time to one instance; one serves 8 in parallel (docs/rollouts.md)."""
    public: bool = False
    """Whether anyone may call it, who then still needs a key."""
    env: dict[str, str] = {}
    """Variables of its own."""

    @property
    def size(self) -> str:
        """In words: “2 vCPU, 2Gi, 300 s, 0 to 10 instances of 16 requests at a time”."""
        return (
            f"{self.cpu} vCPU, {format_memory(self.memory_mb)}, {self.timeout_s} s, "
            f"{self.min_instances} to {self.max_instances} instances of {self.concurrency} "
            "requests at a time"
        )

    @property
    def access(self) -> str:
        """Who may call it, in a word."""
        return "public" if self.public else "private"


def read_wishes(stored: Mapping[str, Any]) -> Wishes:
    """The wishes of a row."""
    return msgspec.convert(stored, Wishes)


def over(wishes: Wishes, changes: Mapping[str, Any]) -> Wishes:
    """`wishes` with what `changes` says that is not None; variables are added to, and one that is
    given without a value is taken away.

    Raises RolloutRefused for a variable that is not for a person to set.
    """
    said = {name: value for name, value in changes.items() if value is not None}
    given = said.pop("env", {})
    for name in given:
        _check_variable(name)
    env = {name: value for name, value in {**wishes.env, **given}.items() if value}
    return msgspec.structs.replace(wishes, env=env, **said)


def differences(before: Wishes, after: Wishes) -> list[str]:
    """What differs, in words: “cpu: 2 → 4”."""
    changes = [
        f"{name}: {old} → {getattr(after, name)}"
        for name, old in msgspec.structs.asdict(before).items()
        if name != "env" and old != getattr(after, name)
    ]
    for name in sorted({*before.env, *after.env}):
        old, new = before.env.get(name, "none"), after.env.get(name, "none")
        if old != new:
            changes.append(f"{name}: {old} → {new}")
    return changes


def _check_variable(name: str) -> None:
    message = ""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        message = f"“{name}” is no name of a variable"
    elif name in SECRETS:
        message = f"{name} is a secret: it comes from Secret Manager (docs/rollouts.md)"
    elif name in OURS:
        message = f"{name} is set by the rollout itself"
    if message:
        raise RolloutRefused(f"env: {message}.", [FieldError("env", message)])
