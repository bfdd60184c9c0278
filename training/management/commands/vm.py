"""The training machine, by hand."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from deployments.gcp import machines
from deployments.gcp.machines import DEBIAN, Machine
from deployments.management.base import SentinelleCommand
from training import machines as services
from training.launchers.resources import VmResources, resources_for

ACTIONS = {
    "create": "make the machine; it boots once and switches itself off",
    "describe": "show its state, its guards and what it costs",
    "start": "start it without a run; it switches itself off unless --keep",
    "stop": "stop it; its disk stays",
    "logs": "show what it writes to its console, while it is on",
    "delete": "delete it and its disk",
}


class Command(SentinelleCommand):
    help = (
        "The Compute Engine machine that trains. Runs start and stop it by themselves (launcher "
        "“vm”) and make it if there is none: these commands are for people."
    )
    examples = """examples:
  manage.py vm create --zone europe-west1-b --machine-type e2-standard-4 --disk 50
  manage.py vm describe
  manage.py vm start --keep --max-run 3600     on for an hour at most, for ssh
  manage.py vm logs --follow
  manage.py vm stop
  manage.py vm delete --yes
"""

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        for action, words in ACTIONS.items():
            sub = actions.add_parser(action, help=words, description=f"{words.capitalize()}.")
            sub.add_argument("--project", help="default: GOOGLE_CLOUD_PROJECT")
            sub.add_argument("--zone", help="default: TRAINING_VM_ZONE")
            sub.add_argument("--name", help="default: TRAINING_VM")
            if action in ("create", "start"):
                sub.add_argument(
                    "--max-run",
                    type=int,
                    metavar="SECONDS",
                    help="Google stops it this long after each start (default: 21600)",
                )
                sub.add_argument(
                    "--keep", action="store_true", help="let it stay on, until --max-run at most"
                )
            if action == "create":
                sub.add_argument("--machine-type", help="default: TRAINING_VM_TYPE")
                sub.add_argument("--disk", type=int, metavar="GB", help="default: 30")
                sub.add_argument(
                    "--image", default=DEBIAN, help="of the disk (default: %(default)s)"
                )
                sub.add_argument(
                    "--no-external-address",
                    action="store_true",
                    help="it then needs Cloud NAT to install anything",
                )
            if action == "logs":
                sub.add_argument("--follow", action="store_true", help="until it is off")
            if action in ("stop", "delete"):
                sub.add_argument("--yes", action="store_true", help="without asking")

    def handle(self, *_args: Any, **options: Any) -> None:
        getattr(self, f"_{options['action']}")(_resources(options), options)

    def _create(self, resources: VmResources, options: dict[str, Any]) -> None:
        machine = services.machine_create(
            resources,
            image=options["image"],
            external_address=not options["no_external_address"],
            keep=options["keep"],
        )
        self._show(machine)

    def _describe(self, resources: VmResources, _options: dict[str, Any]) -> None:
        self._show(machines.describe(services.place_of(resources)))

    def _start(self, resources: VmResources, options: dict[str, Any]) -> None:
        self._show(services.machine_start(resources, keep=options["keep"]))

    def _stop(self, resources: VmResources, options: dict[str, Any]) -> None:
        self._show(
            services.machine_stop(services.place_of(resources), even_with_run=options["yes"])
        )

    def _logs(self, resources: VmResources, options: dict[str, Any]) -> None:
        place = services.place_of(resources)
        for part in services.console_parts(place, follow=options["follow"]):
            self.stdout.write(part, ending="")

    def _delete(self, resources: VmResources, options: dict[str, Any]) -> None:
        place = services.place_of(resources)
        if not options["yes"]:
            answer = input(f"Delete the machine {place} and its disk? Type its name: ")
            if answer.strip() != place.name:
                raise CommandError("Nothing was deleted.")
        services.machine_delete(place, even_with_run=options["yes"])
        self.stdout.write(f"The machine {place} and its disk are deleted.")

    def _show(self, machine: Machine) -> None:
        for name, text in services.machine_facts(machine):
            self.stdout.write(f"{name + ':':<21}{text}")


def _resources(options: dict[str, Any]) -> VmResources:
    given = {
        "project": options.get("project"),
        "zone": options.get("zone"),
        "machine": options.get("name"),
        "machine_type": options.get("machine_type"),
        "disk_gb": options.get("disk"),
        "max_run_s": options.get("max_run"),
    }
    found = resources_for("vm", given)
    assert isinstance(found, VmResources)
    return found
