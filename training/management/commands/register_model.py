"""`manage.py register_model`: register a classifier, or change its definition."""

from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from deployments.management.base import SentinelleCommand, system_user
from deployments.models import RegisteredModel
from deployments.services import model_register
from engine.classifier.definition import read_definition
from training.pipeline.classifier.definitions import definition_names, shipped_definition
from training.pipeline.classifier.simulators import SIMULATORS


class Command(SentinelleCommand):
    help = (
        "Register a classifier that a TOML file defines: its inputs, its classes, and what is told "
        "of each. Registering another file of the same name changes the definition; versions keep "
        "the one that they were trained by."
    )
    examples = """\
examples:
  manage.py register_model sponsor       one that ships with Sentinelle
  manage.py register_model churn.toml    one of your own
  manage.py models show churn            what is registered

docs/classifiers.md describes the file."""

    def add_arguments(self, parser: CommandParser) -> None:
        shipped = ", ".join(definition_names())
        parser.add_argument("definition", help=f"a TOML file, or one that ships: {shipped}")

    def handle(self, *_args: Any, **options: Any) -> None:
        source = _source(options["definition"])
        asked = read_definition(source)
        name = asked.name
        if asked.training.simulator not in ("", *SIMULATORS):
            raise CommandError(
                f"training.simulator: there is no {asked.training.simulator!r}; expected one of "
                f"{', '.join(SIMULATORS)}, or no such line: then rows are imported."
            )
        before = RegisteredModel.objects.filter(name=name).first()
        model = model_register(source=source, by=system_user())
        definition = read_definition(model.definition)
        what = f"{len(definition.inputs)} inputs, {len(definition.classes)} classes"
        if before is None:
            self.stdout.write(f"“{name}” is registered: {what}.")
        elif before.definition == source:
            self.stdout.write(f"“{name}” was registered so already: {what}.")
        else:
            self.stdout.write(f"“{name}” has a new definition: {what}. The next run takes it.")
        if definition.training.simulator:
            self.stdout.write(f"Train it on made-up rows: manage.py train --model {name} --wait")
        else:
            self.stdout.write(f"Give it rows: manage.py import_dataset NAME FILE --model {name}")


def _source(text: str) -> str:
    """The definition in a file, or the one that ships by this name."""
    if text in definition_names() and not Path(text).is_file():
        return shipped_definition(text)
    try:
        return Path(text).read_text(encoding="utf-8")
    except FileNotFoundError:
        shipped = ", ".join(definition_names())
        raise CommandError(
            f"There is no file {text}, and no definition of that name ships with Sentinelle; there "
            f"is {shipped}."
        ) from None
    except OSError as error:
        raise CommandError(f"{text} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{text} is not UTF-8: {error.reason} at byte {error.start}.") from error
