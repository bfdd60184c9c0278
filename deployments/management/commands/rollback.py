"""`manage.py rollback`: go back to the champion before."""

from typing import Any

from django.core.management.base import CommandParser

from deployments import selectors, services
from deployments.management.base import SentinelleCommand, system_user


class Command(SentinelleCommand):
    help = (
        "Undo the latest promotion: the version before it serves again, and the rule set before it "
        "if the promotion had changed that too. A second rollback goes further back."
    )
    examples = """\
examples:
  manage.py rollback fraud
  manage.py rollback fraud --reason "Blocks salaries"

With v1, v2 and v3 promoted in turn: the first rollback serves v2, the second v1, and the third has
nothing to go back to (exit status 1)."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("model", help="the registered model, such as fraud")
        parser.add_argument("--reason", default="By command", help="why; the history keeps it")

    def handle(self, *_args: Any, **options: Any) -> None:
        event = services.rollback(
            model=selectors.model_by_name(options["model"]),
            actor=system_user(),
            reason=options["reason"],
        )
        rules = selectors.live_pointer(event.model.name).rule_set
        assert event.from_version is not None
        with_rules = f", with the rule set “{rules.name}”" if rules else ""
        self.stdout.write(
            f"{event.model.name} is served by v{event.to_version.version} again "
            f"(before: v{event.from_version.version}){with_rules}."
        )
