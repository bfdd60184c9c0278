"""`manage.py promote`: make a version the champion."""

from typing import Any

from django.core.management.base import CommandParser

from deployments import selectors, services
from deployments.management.base import SentinelleCommand, system_user


class Command(SentinelleCommand):
    help = (
        "Make a version the champion: the one that answers /score. Its bundle is verified first; "
        "servers follow within two seconds, without a restart."
    )
    examples = """\
examples:
  manage.py promote fraud 1.0.0
  manage.py promote fraud 1.1.0 --reason "Catches the mule chains of January"
  manage.py promote fraud 1.1.0 --rules none    serve it without rules, in the same step

`manage.py rollback fraud` undoes it. A server that is pinned by MODEL_VERSION does not follow."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("model", help="the registered model, such as fraud")
        parser.add_argument("version", help="the version, such as 1.0.0")
        parser.add_argument("--reason", default="By command", help="why; the history keeps it")
        parser.add_argument("--rules", metavar="NAME", help="also serve with this rule set")

    def handle(self, *_args: Any, **options: Any) -> None:
        event = services.promote(
            model=selectors.model_by_name(options["model"]),
            version=options["version"],
            actor=system_user(),
            reason=options["reason"],
            rule_set=selectors.rule_set_by_name(options["rules"]) if options["rules"] else None,
        )
        before = f"v{event.from_version.version}" if event.from_version else "nothing"
        rules = selectors.live_pointer(event.model.name).rule_set
        tuned = event.to_version.rule_set
        self.stdout.write(
            f"{event.model.name} is served by v{event.to_version.version} (before: {before}), "
            f"with the rule set “{rules.name}”."
        )
        if tuned != rules:
            self.stdout.write(
                f"Its thresholds were tuned with “{tuned.name}”: expect other numbers of reviews "
                f"and blocks than its metrics say."
            )
