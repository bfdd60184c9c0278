"""What the commands that roll the engine out have in common."""

import re
import time
from argparse import ArgumentTypeError
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from deployments.gcp.limits import parse_memory
from deployments.management.cloud import INTERRUPTED
from deployments.models import Deployment, DeploymentState
from deployments.rollouts import claims
from deployments.rollouts.driver import deployment_drive
from deployments.rollouts.errors import RolloutRefused
from engine.errors import SentinelleError

UNITS = {"": 1, "s": 1, "m": 60}
WATCH_SECONDS = 1.0


def add_wishes(parser: CommandParser) -> None:
    """The options that say what a service is to be."""
    parser.add_argument("--cpu", type=int, help="processors of an instance: 1, 2, 4, 6 or 8")
    parser.add_argument("--memory", type=_memory, metavar="SIZE", help="4Gi, or 4096 for MiB")
    parser.add_argument("--timeout", type=_seconds, metavar="TIME", help="of a request: 300 or 5m")
    parser.add_argument("--min-instances", type=int, help="that are always there, and always paid")
    parser.add_argument("--max-instances", type=int, help="at most")
    parser.add_argument("--concurrency", type=int, help="requests at a time to one instance")
    access = parser.add_mutually_exclusive_group()
    access.add_argument(
        "--allow-unauthenticated", dest="public", action="store_true", default=None,
        help="let anyone call it; a key is still needed to score",
    )  # fmt: skip
    access.add_argument(
        "--no-allow-unauthenticated", dest="public", action="store_false",
        help="only who has the role roles/run.invoker",
    )  # fmt: skip
    parser.add_argument(
        "--env", type=_variable, action="append", default=[], metavar="NAME=VALUE",
        help="a variable of its own; may be repeated; without a value it goes",
    )  # fmt: skip


def told_wishes(options: dict[str, Any]) -> dict[str, Any]:
    """What was said of the service, by the names of `Wishes`; None where nothing was."""
    return {
        "cpu": options["cpu"],
        "memory_mb": options["memory"],
        "timeout_s": options["timeout"],
        "min_instances": options["min_instances"],
        "max_instances": options["max_instances"],
        "concurrency": options["concurrency"],
        "public": options["public"],
        "env": dict(options["env"]) or None,
    }


class Follower:
    """Takes the steps of a rollout, or watches who takes them, and prints its timeline."""

    def __init__(self, command: BaseCommand) -> None:
        self._out, self._style = command.stdout, command.style
        self._printed = 0
        self._message = ""

    def follow(self, deployment: Deployment) -> None:
        """Until it is at its end; CommandError when that is a failure or Ctrl-C."""
        ended = self.follow_to_end(deployment)
        if ended.state == DeploymentState.FAILED:
            raise CommandError(f"The rollout failed. {ended.error}")
        service = ended.service
        service.refresh_from_db()
        self._out.write(
            self._style.SUCCESS(
                f"v{ended.version.version} serves {ended.percent} % of {service.name}: "
                f"{service.url}"
            )
        )

    def follow_to_end(self, deployment: Deployment) -> Deployment:
        """Until it is at its end, whichever that is; CommandError after Ctrl-C."""
        try:
            return self._drive(deployment)
        except KeyboardInterrupt:
            raise CommandError(
                "Interrupted. Start the same command again: it goes on from here. To end the "
                f"rollout: manage.py services cancel {deployment.service.name}",
                returncode=INTERRUPTED,
            ) from None

    def _drive(self, deployment: Deployment) -> Deployment:
        """Take the steps, as soon as nobody else has them; whoever is dead has them no longer than
        their lease."""
        seen = deployment.lease_until
        while True:
            worker = claims.worker_name()
            ended = deployment_drive(deployment.pk, worker=worker, tell=self._tell)
            # It may have been lost to another meanwhile.
            if ended is not None and not ended.is_unfinished:
                return ended
            deployment.refresh_from_db()
            self._tell(deployment)
            if not deployment.is_unfinished:
                return deployment
            renewed = seen is not None and deployment.lease_until not in (None, seen)
            is_held = renewed or claims.holder_is_here(deployment)
            if is_held and deployment.next_step_at is None:
                raise RolloutRefused(
                    f"The command {deployment.claimed_by} is at it. This rollout is "
                    f"{deployment.state} since {deployment.state_since:%H:%M:%S} UTC."
                )
            seen = seen or deployment.lease_until
            time.sleep(WATCH_SECONDS)

    def _tell(self, deployment: Deployment) -> None:
        """Print what is new."""
        for event in deployment.events.filter(pk__gt=self._printed):
            self._printed = event.pk
            at = timezone.localtime(event.at)
            state = event.get_state_display() if event.state != event.from_state else ""
            self._out.write(f"{at:%H:%M:%S} {state:<10} {event.message}".rstrip())
        message = deployment.message if deployment.is_unfinished else ""
        if message and message != self._message:
            self._out.write(f"{timezone.localtime():%H:%M:%S} {'':<10} {message}")
        self._message = message
        self._out.flush()


def _memory(text: str) -> int:
    try:
        return parse_memory(text)
    except SentinelleError as error:
        raise ArgumentTypeError(error.detail) from None


def _seconds(text: str) -> int:
    match = re.fullmatch(r"(\d+)([sm]?)", text.strip())
    if match is None:
        raise ArgumentTypeError(f"“{text}” is no time; write 300 for seconds, or 5m")
    return int(match[1]) * UNITS[match[2]]


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ArgumentTypeError(f"“{text}” is not NAME=VALUE")
    return name, value
