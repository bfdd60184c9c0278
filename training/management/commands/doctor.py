"""Walk through everything that must be right, with what to do where it is not."""

import json
from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from deployments.management.base import SentinelleCommand
from training.doctor import Finding, State, cloud, here, look
from training.doctor.explain import explain

MARKS = {State.OK: "✓", State.FAULT: "✗", State.NOT_LOOKED: "–"}


class Command(SentinelleCommand):
    help = (
        "Look at settings, database, broker, workers, files, versions, the server and a test "
        "score, and with --cloud at the Google Cloud project, its job, machine and services. "
        "Changes nothing: the test score is a dry run."
    )
    # Half of what it finds is what would stop another command from starting.
    requires_system_checks: list[str] = []
    examples = """Examples:
  manage.py doctor
  manage.py doctor --url https://scores.example.com
  manage.py doctor --cloud
  manage.py doctor --explain "Permission 'run.services.get' denied on resource"

Each line is ✓, ✗ with what to do, or – for what could not be looked at.

Exit status: 0 all is well, 1 something is not."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--url",
            default=f"http://{settings.HOST}:{settings.PORT}",
            help="where the server answers (%(default)s)",
        )
        parser.add_argument(
            "--cloud", action="store_true", help="also the project GOOGLE_CLOUD_PROJECT"
        )
        parser.add_argument("--json", action="store_true", help="print the findings as JSON")
        parser.add_argument(
            "--explain", metavar="ERROR", help="only say what this error means and what to do"
        )

    def handle(self, **options: Any) -> None:
        if options["explain"] is not None:
            self.stdout.write(explain(options["explain"]))
            return
        checks = here.checks(options["url"].rstrip("/"))
        if options["cloud"]:
            checks += cloud.checks()
        findings = look(checks)
        if options["json"]:
            found = list(findings)
            self.stdout.write(json.dumps([each._asdict() for each in found], indent=2))
        else:
            found = self._show(findings)
        faults = sum(each.state is State.FAULT for each in found)
        if faults:
            raise CommandError(f"{faults} of {len(found)} are not as they should be.")

    def _show(self, findings: Iterable[Finding]) -> list[Finding]:
        """Print each as it is found."""
        found = []
        for each in findings:
            found.append(each)
            style = {State.OK: self.style.SUCCESS, State.FAULT: self.style.ERROR}.get(each.state)
            mark = style(MARKS[each.state]) if style else MARKS[each.state]
            self.stdout.write(f"{mark} {each.name}: {each.words}")
            if each.advice:
                self.stdout.write(f"    → {each.advice}")
            self.stdout.flush()
        if not any(each.state is State.FAULT for each in found):
            self.stdout.write(self.style.SUCCESS("All is well."))
        return found
