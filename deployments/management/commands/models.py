"""`manage.py models`: list the registered models, and show one."""

from typing import Any

from django.core.management.base import CommandParser

from deployments import selectors
from deployments.management.base import SentinelleCommand
from deployments.models import RegisteredModel
from engine.classifier.definition import Input, NumberInput, read_definition

COLUMNS = ("MODEL", "KIND", "CHAMPION", "VERSIONS", "DESCRIPTION")


class Command(SentinelleCommand):
    help = "The registered models: what there is, and what serves of each."
    examples = """\
examples:
  manage.py models list
  manage.py models show sponsor           its inputs and classes
  manage.py models show sponsor --toml    its definition, as register_model takes it

A classifier is registered with `manage.py register_model`."""

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
        verbs.add_parser("list", help="all of them, with what serves")
        show = verbs.add_parser("show", help="everything about one")
        show.add_argument("name", help="the model, such as sponsor")
        show.add_argument("--toml", action="store_true", help="print a classifier's definition")

    def handle(self, *_args: Any, verb: str, **options: Any) -> None:
        if verb == "list":
            self._list()
        else:
            self._show(selectors.model_by_name(options["name"]), toml=options["toml"])

    def _list(self) -> None:
        rows = [
            (
                model.name,
                model.kind,
                f"v{model.champion_number}" if model.champion_number else "-",
                str(model.versions_count),
                model.description,
            )
            for model in selectors.models_listed()
        ]
        widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True)]
        for row in (COLUMNS, *rows):
            line = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
            self.stdout.write(line.rstrip())

    def _show(self, model: RegisteredModel, *, toml: bool) -> None:
        if toml:
            self.stdout.write(model.definition, ending="")
            return
        live = selectors.live_pointer(model.name)
        facts = [
            ("Model", f"{model.name}, {model.get_kind_display().lower()}"),
            ("Description", model.description),
            ("Serves", f"v{live.version.version}" if live.version else "nothing yet"),
            ("Rules", live.rule_set.name if live.rule_set else ""),
            ("Versions", ", ".join(f"v{each.version}" for each in model.versions.all())),
            ("Defined", _defined(model)),
        ]
        for name, value in facts:
            if value:
                self.stdout.write(f"{name + ':':<13} {value}")
        if model.is_classifier:
            self._show_definition(model)

    def _show_definition(self, model: RegisteredModel) -> None:
        definition = read_definition(model.definition)
        self.stdout.write("\nInputs")
        width = max(map(len, definition.inputs))
        for name, each in definition.inputs.items():
            self.stdout.write(f"  {name:<{width}}  {_input_in_words(each)}")
        self.stdout.write(f"\nClasses of {definition.target}")
        for label, told in definition.classes.items():
            self.stdout.write("  " + "; ".join([label, *told.values()]))


def _input_in_words(each: Input) -> str:
    unit = f" {each.unit}" if isinstance(each, NumberInput) and each.unit else ""
    default = "" if each.default is None else f" (default {each.taken(each.default)})"
    told = f": {each.description}" if each.description else ""
    return f"{each.expected}{unit}{default}{told}"


def _defined(model: RegisteredModel) -> str:
    if model.defined_at is None:
        return ""
    return f"{model.defined_at:%Y-%m-%d %H:%M} UTC by {model.defined_by}"
