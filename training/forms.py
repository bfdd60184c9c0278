"""The form that starts a training run."""

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from django import forms
from django.conf import settings

from deployments.models import RegisteredModel, RuleSet
from engine.errors import RunRefused
from engine.kinds import CLASSIFIER, FRAUD, Kind
from training import selectors
from training.launchers.choose import AUTO, choose, run_estimate
from training.launchers.resources import resources_for
from training.models import Dataset, Then
from training.options import COUNTS, DATES, FIELDS, FIELDS_OF, NUMBERS, OptionField, read_options
from training.pipeline.spec import AnyOptions
from training.places import LAUNCHERS, PLACE_FIELDS, PlaceField, read_place, what_lacks

# Options that are not text.
KINDS: dict[str, type[forms.Field]] = {
    **dict.fromkeys(DATES, forms.DateTimeField),
    **dict.fromkeys(NUMBERS, forms.FloatField),
    **dict.fromkeys((*COUNTS, "cpu"), forms.IntegerField),
}


GROUPS = (
    ("What", ("model", "dataset", "version", "rules", "sample", "seed")),
    ("Where it runs", ("launcher", *(place.name for place in PLACE_FIELDS))),
    ("Then", ("then",)),
    (
        "Periods",
        ("train_from", "train_until", "validate_until", "test_until", "label_delay", "cut_off"),
    ),
    ("Search", ("search", "budget")),
    ("Thresholds", ("review_rate", "block_rate", "cost_review", "cost_block_legit")),
    ("Forest", ("trees", "test_share")),
    ("Features and memory", ("without", "fit_rows", "memory_limit")),
)
ONLY_OF: dict[str, Kind] = {
    "rules": FRAUD,
    "days": FRAUD,
    **{
        field.name: kind
        for kind, fields in FIELDS_OF.items()
        for field in fields
        if sum(field in others for others in FIELDS_OF.values()) == 1
    },
}
"""The fields that one kind of models has, by name."""


class Group(NamedTuple):
    """Fields of the form under one heading."""

    title: str
    fields: list[forms.BoundField]

    only_of: str = ""
    """The kind of models that the whole group is of; empty: of every kind."""


def grouped(form: forms.Form, groups: Iterable[tuple[str, Iterable[str]]]) -> list[Group]:
    """The fields of a form under their headings."""
    made = []
    for title, names in groups:
        kinds = {ONLY_OF.get(name, "") for name in names}
        only_of = kinds.pop() if len(kinds) == 1 else ""
        made.append(Group(title, [form[name] for name in names], only_of))
    return made


def mark_kinds(fields: dict[str, forms.Field]) -> None:
    """Say in the page which field is of which kind, of which kind each model is and which data set
    is whose: kinds.js hides what the chosen model has not."""
    kinds = dict(RegisteredModel.objects.values_list("name", "kind"))
    owners = Dataset.objects.exclude(model=None).values_list("name", "model__name")
    fields["model"].widget.attrs["data-kinds"] = json.dumps(kinds)
    fields["dataset"].widget.attrs["data-models"] = json.dumps(dict(owners))
    for name, kind in ONLY_OF.items():
        if name in fields:
            fields[name].widget.attrs["data-only-of"] = kind


def kind_of(model: Any) -> Kind:
    """That of a form's model; the usual one when none is chosen."""
    return CLASSIFIER if model is not None and model.is_classifier else FRAUD


class TrainForm(forms.Form):
    """What `services.run_create` takes; it does the checks, and its refusals become errors."""

    model = forms.ModelChoiceField(
        RegisteredModel.objects.all(), to_field_name="name", empty_label=None
    )
    dataset = forms.ModelChoiceField(
        Dataset.objects.all(), to_field_name="name", label="Data set", empty_label="Choose one"
    )
    version = forms.CharField(
        max_length=64,
        help_text="A semantic version that the model does not have yet, such as 1.0.0.",
    )
    rules = forms.ModelChoiceField(
        RuleSet.objects.all(),
        to_field_name="name",
        required=False,
        empty_label="Those that serve now",
        help_text="The thresholds are tuned with these rules.",
    )
    sample = forms.IntegerField(
        required=False,
        min_value=1,
        help_text="Only this many of the most recent rows, of a classifier of the first: quick, "
        "but the version can't be promoted. Empty for all.",
    )
    seed = forms.IntegerField(
        initial=0, min_value=0, max_value=2**31 - 1, help_text="The same seed, the same version."
    )
    launcher = forms.ChoiceField(
        choices=list(LAUNCHERS.items()),
        initial="local",
        required=False,
        help_text="Where it executes. What is empty below has its usual value there.",
    )

    then = forms.ChoiceField(
        choices=Then.choices,
        initial=Then.KEEP,
        required=False,
        help_text="What is done with the version if the run succeeds. Promoting takes the "
        "permission “Can promote a model version”.",
    )

    def __init__(self, *args: Any, may_promote: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._may_promote = may_promote
        more: list[PlaceField | OptionField] = [*PLACE_FIELDS, *FIELDS]
        for option in more:
            kind = KINDS.get(option.name, forms.CharField)
            self.fields[option.name] = kind(
                required=False, label=option.label, help_text=option.help
            )
        for name in DATES:
            self.fields[name].widget.attrs["placeholder"] = "2026-01-31 00:00"
            self.fields[name].help_text += f" In {settings.TIME_ZONE}."
        self.fields["launcher"].choices = [  # type: ignore[attr-defined]
            (name, f"{words} (needs {lacking})" if (lacking := what_lacks(name)) else words)
            for name, words in LAUNCHERS.items()
        ]
        mark_kinds(self.fields)
        names = RegisteredModel.objects.values_list("name", flat=True)
        self.fields["version"].widget.attrs["data-versions"] = json.dumps(
            {name: selectors.next_version(name) for name in names}
        )

    def groups(self) -> list[Group]:
        """The fields under their headings."""
        return grouped(self, GROUPS)

    def expected(self) -> dict[str, Any]:
        """What to expect of the run in a form that may not be complete yet: one sentence, and
        what may go wrong."""
        self.is_valid()
        values = {name: self.cleaned_data.get(name) for name in self.fields}
        launcher, dataset = values["launcher"] or "local", values["dataset"]
        model = values["model"].name if values["model"] else settings.MODEL_NAME
        if dataset is None:
            return {"words": "Choose a data set to see how long it takes.", "warnings": []}
        try:
            place = read_place(launcher, values)
            options = _options(values)
            if launcher == AUTO:
                rows = min(values["sample"] or dataset.rows, dataset.rows)
                choice = choose(rows, options, model=model, given=place)
                launcher, found = choice.launcher, choice.estimate
            else:
                resources = resources_for(launcher, place)
                found = run_estimate(
                    launcher, resources, dataset, values["sample"], options, model=model
                )
        except RunRefused as refusal:
            return {"words": refusal.detail, "warnings": []}
        return {"words": f"{LAUNCHERS[launcher]}: {found.words}", "warnings": found.warnings}

    @staticmethod
    def suggestions(model: str | None = None) -> dict[str, Any]:
        """Initial values: the model, else the usual one, and its next version."""
        name = model or settings.MODEL_NAME
        return {"model": name, "version": selectors.next_version(name)}

    def clean_then(self) -> str:
        """Only who may promote by hand may have a run do it."""
        then = str(self.cleaned_data["then"] or Then.KEEP)
        if then == Then.PROMOTE and not self._may_promote:
            raise forms.ValidationError("It takes the permission “Can promote a model version”.")
        return then

    def arguments(self) -> dict[str, Any]:
        """The arguments of `run_create` from a valid form.

        Raises RunRefused for options that can't be.
        """
        values = self.cleaned_data
        launcher = values["launcher"] or "local"
        return {
            "model": values["model"].name,
            "dataset": values["dataset"].name,
            "version": values["version"],
            "rules": values["rules"].name if values["rules"] else None,
            "sample": values["sample"],
            "seed": values["seed"],
            "launcher": launcher,
            "resources": read_place(launcher, values),
            "then": values["then"],
            "options": _options(values),
        }

    def show(self, refusal: RunRefused) -> None:
        """Put a refusal beside the fields that it names."""
        for error in refusal.errors:
            self.add_error(error.field if error.field in self.fields else None, error.message)
        if not refusal.errors:
            self.add_error(None, refusal.detail)


def _options(values: dict[str, Any]) -> AnyOptions:
    given = {option.name: values[option.name] for option in FIELDS}
    return read_options(given, kind_of(values["model"]))
