"""`manage.py promote`: make a version the champion."""

import sys
from typing import Any

from django.core.management.base import CommandError, CommandParser

from deployments import selectors, services
from deployments.gates import gate
from deployments.management.base import SentinelleCommand, system_user
from deployments.models import ModelVersion


class Command(SentinelleCommand):
    help = (
        "Make a version the champion: the one that answers /score, or /models/NAME/predict. Its "
        "bundle is verified first; servers follow within two seconds, without a restart."
    )
    examples = """\
examples:
  manage.py promote fraud 1.0.0
  manage.py promote fraud 1.1.0 --reason "Catches the mule chains of January"
  manage.py promote fraud 1.1.0 --rules none    serve it without rules, in the same step
  manage.py promote fraud 1.1.0 --yes           also when it is not clearly the better one
  manage.py promote sponsor 1.0.0               a classifier, which has no rules

`manage.py rollback fraud` undoes it. A server that is pinned by MODEL_VERSION does not follow."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("model", help="the registered model, such as fraud")
        parser.add_argument("version", help="the version, such as 1.0.0")
        parser.add_argument("--reason", default="By command", help="why; the history keeps it")
        parser.add_argument("--rules", metavar="NAME", help="also serve with this rule set")
        parser.add_argument(
            "--yes", action="store_true", help="do not ask when it is not better than the champion"
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        model = selectors.model_by_name(options["model"])
        rules = selectors.rule_set_by_name(options["rules"]) if options["rules"] else None
        champion = selectors.live_pointer(model.name).version
        self._pass_gate(selectors.version_by_semver(model, options["version"]), champion, **options)
        event = services.promote(
            model=model,
            version=options["version"],
            seen_champion=champion.version if champion else "",
            actor=system_user(),
            reason=options["reason"],
            rule_set=rules,
        )
        before = f"v{event.from_version.version}" if event.from_version else "nothing"
        serving = selectors.live_pointer(event.model.name).rule_set
        tuned = event.to_version.rule_set
        with_rules = f", with the rule set “{serving.name}”" if serving else ""
        self.stdout.write(
            f"{event.model.name} is served by v{event.to_version.version} "
            f"(before: {before}){with_rules}."
        )
        if tuned is not None and tuned != serving:
            self.stdout.write(
                f"Its thresholds were tuned with “{tuned.name}”: expect other numbers of reviews "
                f"and blocks than its metrics say."
            )

    def _pass_gate(
        self, candidate: ModelVersion, champion: ModelVersion | None, *, yes: bool, **_: Any
    ) -> None:
        """Say how the version compares, and ask whether it is meant when the figures do not speak
        for it. What the registry refuses anyway is left to it."""
        if candidate == champion or not candidate.deployable:
            return
        found = gate(candidate, champion)
        self.stdout.write(f"{found.title}. {found.reason}")
        if found.open or yes:
            return
        if not sys.stdin.isatty():
            raise CommandError("Nothing was promoted. Give --yes to promote it all the same.")
        if input("Promote it all the same? [y/N] ").strip().lower() not in ("y", "yes"):
            raise CommandError("Nothing was promoted.")
