"""A classifier's definition in the admin: the form that takes one, and how it is shown."""

import json
import math
from typing import Any, NamedTuple

from django import forms
from django.core.exceptions import ValidationError

from engine.classifier.definition import (
    MODEL_VERSION,
    BooleanInput,
    CategoryInput,
    Definition,
    Input,
    IntegerInput,
    NumberInput,
    read_definition,
)
from engine.errors import InvalidDefinition

LARGEST_BYTES = 500_000
_TYPES: dict[type, str] = {
    NumberInput: "number",
    IntegerInput: "whole number",
    BooleanInput: "true or false",
    CategoryInput: "category",
}


class DefinitionForm(forms.Form):
    """The TOML text of a definition, pasted or as a file, which is taken where both are given."""

    file = forms.FileField(
        required=False,
        allow_empty_file=True,
        label="TOML file",
        widget=forms.FileInput(attrs={"accept": ".toml,application/toml,text/plain"}),
        help_text="A file that ends in .toml; its text replaces what stands below.",
    )
    source = forms.CharField(
        required=False,
        strip=False,
        label="Definition",
        widget=forms.Textarea(attrs={"rows": 26, "class": "code", "spellcheck": "false"}),
        help_text="Inputs, classes and what is told of each class; docs/classifiers.md describes "
        "every key.",
    )

    def clean_file(self) -> str:
        """The text of the file, “” for none."""
        file = self.cleaned_data["file"]
        if file is None:
            return ""
        if file.size > LARGEST_BYTES:
            raise ValidationError("This is no definition: it has more than 500 kB.")
        try:
            return str(file.read().decode("utf-8-sig"))
        except UnicodeDecodeError:
            raise ValidationError("This is no definition: it is not text in UTF-8.") from None

    def clean(self) -> dict[str, Any]:
        """Read the definition: `source` is its text, `definition` what it says."""
        values: dict[str, Any] = super().clean() or {}
        if "file" in self.errors:
            return values
        source = (values["file"] or values.get("source", "")).replace("\r\n", "\n")
        if not source.strip():
            self.add_error("source", "Paste a definition, or choose a file.")
            return values
        # What the page shows again, whatever is wrong with it.
        self.data = {"source": source}
        try:
            values |= {"source": source, "definition": read_definition(source)}
        except InvalidDefinition as fault:
            places = [f"{error.field}: {error.message}" for error in fault.errors]
            self.add_error("source", places or [fault.detail])
        return values


class InputRow(NamedTuple):
    """One input as a line of a table."""

    name: str
    type: str
    allowed: str
    values: list[str]
    """Of a category, in place of `allowed`."""
    default: str
    unit: str
    description: str


def definition_context(definition: Definition) -> dict[str, Any]:
    """What `admin/deployments/registeredmodel/definition.html` shows."""
    facts = list(next(iter(definition.classes.values())))
    inputs = [_input_row(name, each) for name, each in definition.inputs.items()]
    return {
        "definition": definition,
        "inputs": inputs,
        "with_units": any(row.unit for row in inputs),
        "with_descriptions": any(row.description for row in inputs),
        "class_facts": facts,
        "classes": [
            (label, [told[name] for name in facts]) for label, told in definition.classes.items()
        ],
        "answers": _answers(definition, facts),
        "request_example": _json(example_request(definition)),
        "answer_example": _json(_example_answer(definition)),
    }


def example_request(definition: Definition) -> dict[str, Any]:
    """Inputs that are valid: the defaults, else the middle of a range or the first value."""
    return {name: _example(each) for name, each in definition.inputs.items()}


def _input_row(name: str, each: Input) -> InputRow:
    return InputRow(
        name=name,
        type=_TYPES[type(each)],
        allowed=f"{each.minimum:,g} to {each.maximum:,g}" if isinstance(each, NumberInput) else "",
        values=list(each.values) if isinstance(each, CategoryInput) else [],
        default="required" if each.default is None else _plain(each.default),
        unit=each.unit if isinstance(each, NumberInput) else "",
        description=each.description,
    )


def _answers(definition: Definition, facts: list[str]) -> list[tuple[str, str]]:
    """The names in an answer, and what each holds."""
    answer = definition.answer
    return [
        (answer.prediction, "The likeliest class"),
        (answer.confidence, "Its probability, 0 to 1"),
        *((name, "What the table of classes tells of it") for name in facts),
        (answer.context, "The inputs as they were used, defaults included"),
        (MODEL_VERSION, "The version that answered, such as v1.0.0"),
    ]


def _example(each: Input) -> Any:
    if each.default is not None:
        return each.taken(each.default)
    if isinstance(each, CategoryInput):
        return each.values[0]
    if isinstance(each, BooleanInput):
        return True
    middle = (each.minimum + each.maximum) / 2
    if isinstance(each, IntegerInput):
        return max(math.ceil(each.minimum), int(middle))
    return float(f"{middle:g}")


def _example_answer(definition: Definition) -> dict[str, Any]:
    label, told = next(iter(definition.classes.items()))
    answer = definition.answer
    return {
        answer.prediction: label,
        answer.confidence: 0.73,
        **told,
        answer.context: example_request(definition),
        MODEL_VERSION: "v1.0.0",
    }


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False)
