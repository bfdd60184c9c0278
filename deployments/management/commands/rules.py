"""`manage.py rules`: check, add, promote, roll back and list rule sets."""

import sys
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from deployments import artifacts, selectors, services
from deployments.management.base import SentinelleCommand, system_user


class Command(SentinelleCommand):
    help = (
        "Rule sets: TOML files of rules that run before the models. A rule set never changes once "
        "it is added; a correction is a new one, and promoting it takes effect within two seconds."
    )
    examples = """\
examples:
  manage.py rules list                           what there is, and which one serves
  manage.py rules show default > rules.toml      start from the default set
  manage.py rules check rules.toml               compile it, name every fault
  manage.py rules add cap-500 rules.toml         register it; nothing serves it yet
  manage.py rules promote cap-500 --reason "Cap raised to 500"
  manage.py rules rollback                       the rule set before; again: further back

The format is described in docs/rules.md."""

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
        listed = verbs.add_parser("list", help="list the rule sets, the serving one marked")
        show = verbs.add_parser("show", help="print a rule set's source")
        check = verbs.add_parser("check", help="compile a file and name every fault")
        add = verbs.add_parser("add", help="register a file as a new rule set")
        promote = verbs.add_parser("promote", help="serve with a rule set")
        rollback = verbs.add_parser("rollback", help="serve with the rule set before")
        for verb in (show, add, promote):
            verb.add_argument("name", help="the rule set's name")
        for verb in (check, add):
            verb.add_argument("file", help="a TOML file, - for standard input")
        for verb in (listed, promote, rollback):
            verb.add_argument("--model", default=settings.MODEL_NAME, help="default: %(default)s")
        for verb in (promote, rollback):
            verb.add_argument("--reason", default="By command", help="why; the history keeps it")

    def handle(self, *_args: Any, **options: Any) -> None:
        getattr(self, f"_{options['verb']}")(**options)

    def _list(self, *, model: str, **_: Any) -> None:
        serving = selectors.live_pointer(model).rule_set
        for rule_set in selectors.rule_sets():
            mark = "*" if rule_set == serving else " "
            self.stdout.write(
                f"{mark} {rule_set.name:<24} {rule_set.sha256[:12]}  "
                f"{rule_set.created_at:%Y-%m-%d %H:%M}  {rule_set.created_by}"
            )
        self.stdout.write(f"* serves {model}")

    def _show(self, *, name: str, **_: Any) -> None:
        self.stdout.write(selectors.rule_set_by_name(name).source, ending="")

    def _check(self, *, file: str, **_: Any) -> None:
        compiled = artifacts.compile_rules(_source(file))
        self.stdout.write(f"{len(compiled.rules)} rules compile. Digest {compiled.sha256}.")

    def _add(self, *, name: str, file: str, **_: Any) -> None:
        rule_set = services.rule_set_create(
            name=name, source=_source(file), created_by=system_user()
        )
        self.stdout.write(f"“{rule_set.name}” is registered; `rules promote` makes it serve.")

    def _promote(self, *, model: str, name: str, reason: str, **_: Any) -> None:
        event = services.rule_set_promote(
            model=selectors.model_by_name(model),
            rule_set=selectors.rule_set_by_name(name),
            actor=system_user(),
            reason=reason,
        )
        self.stdout.write(f"{model} is served with the rule set “{event.to_rule_set.name}”.")

    def _rollback(self, *, model: str, reason: str, **_: Any) -> None:
        event = services.rule_set_rollback(
            model=selectors.model_by_name(model), actor=system_user(), reason=reason
        )
        self.stdout.write(f"{model} is served with the rule set “{event.to_rule_set.name}” again.")


def _source(file: str) -> str:
    """The text of a file, or of standard input for “-”."""
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{file} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{file} is not UTF-8: {error.reason} at byte {error.start}.") from error
