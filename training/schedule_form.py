"""The form of a retraining schedule."""

from typing import Any
from zoneinfo import available_timezones

from django import forms
from django.conf import settings

from deployments.models import RegisteredModel, RuleSet
from engine.errors import FieldError, SentinelleError
from training.forms import KINDS as OPTION_KINDS
from training.forms import Group, grouped, kind_of, mark_kinds
from training.models import Dataset, RetrainingSchedule, Then
from training.options import DATES, FIELDS, OptionField, read_options, written_options
from training.pipeline.spec import encode_options
from training.places import LAUNCHERS, PLACE_FIELDS, PlaceField, read_place, written_place

# A schedule's data moves on, so fixed dates make no sense of it.
OPTIONS = tuple(option for option in FIELDS if option.name not in DATES)
GROUPS = (
    ("", ("name", "model", "enabled")),
    ("When", ("crontab", "time_zone")),
    ("Data", ("dataset", "days", "label_delay")),
    ("Then", ("then",)),
    ("Where it runs", ("launcher", *(place.name for place in PLACE_FIELDS))),
    (
        "How it is trained",
        ("rules", "seed", *(each.name for each in OPTIONS if each.name != "label_delay")),
    ),
)
# What a refusal of resources names, as the form does.
WRITTEN_AS = {"resources": "launcher", **{place.resource: place.name for place in PLACE_FIELDS}}


class ScheduleForm(forms.Form):
    """The fields of a schedule; the services do the checks, and their refusals become errors."""

    name = forms.CharField(
        max_length=40,
        help_text="Lower-case letters, digits, - and _, such as nightly. The data sets of its "
        "traffic begin with it.",
    )
    model = forms.ModelChoiceField(
        RegisteredModel.objects.all(), to_field_name="name", empty_label=None
    )
    enabled = forms.BooleanField(
        required=False,
        initial=True,
        help_text="Times that pass while it is disabled are not made up for.",
    )
    crontab = forms.CharField(
        max_length=200,
        initial="0 3 * * 1",
        help_text="Minute, hour, day of the month, month, day of the week (0 is Sunday), as in "
        "cron. A day must satisfy both kinds of days.",
    )
    time_zone = forms.ChoiceField(
        help_text="Of these times. Where clocks are put back, a time that happens twice comes once."
    )
    dataset = forms.ModelChoiceField(
        Dataset.objects.all(),
        to_field_name="name",
        required=False,
        label="Data set",
        empty_label="Recorded traffic",
        help_text="The same data each time, or else the traffic of the last days.",
    )
    days = forms.IntegerField(
        required=False,
        min_value=1,
        label="Days of traffic",
        help_text="Of recorded traffic: the decisions of so many days before the time, with the "
        "labels that are known by then.",
    )
    then = forms.ChoiceField(
        choices=Then.choices,
        initial=Then.PROPOSE,
        help_text="What is done with the version. A proposal waits for a person, with what the "
        "comparison with the champion found.",
    )
    launcher = forms.ChoiceField(
        choices=list(LAUNCHERS.items()),
        help_text="Where it executes. What is empty below has its usual value there.",
    )
    rules = forms.ModelChoiceField(
        RuleSet.objects.all(),
        to_field_name="name",
        required=False,
        empty_label="Those that serve then",
        help_text="The thresholds are tuned with these rules.",
    )
    seed = forms.IntegerField(
        initial=0, min_value=0, max_value=2**31 - 1, help_text="The same seed, the same version."
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        zones = [(name, name) for name in sorted(available_timezones())]
        self.fields["time_zone"].choices = zones  # type: ignore[attr-defined]
        more: list[PlaceField | OptionField] = [*PLACE_FIELDS, *OPTIONS]
        for option in more:
            kind = OPTION_KINDS.get(option.name, forms.CharField)
            self.fields[option.name] = kind(
                required=False, label=option.label, help_text=option.help
            )
        mark_kinds(self.fields)

    @staticmethod
    def initial_of(schedule: RetrainingSchedule | None) -> dict[str, Any]:
        """What the fields hold at first."""
        if schedule is None:
            return {"model": settings.MODEL_NAME, "time_zone": settings.TIME_ZONE}
        same = ("name", "enabled", "crontab", "time_zone", "days", "then", "launcher", "seed")
        return {
            **{name: getattr(schedule, name) for name in same},
            "model": schedule.model.name,
            "dataset": schedule.dataset.name if schedule.dataset else None,
            "rules": schedule.rule_set.name if schedule.rule_set else None,
            **written_place(schedule.resources),
            **written_options(schedule.typed_options),
        }

    def groups(self) -> list[Group]:
        """The fields under their headings."""
        return grouped(self, GROUPS)

    def values(self) -> dict[str, Any]:
        """The fields of `RetrainingSchedule` from a valid form.

        Raises RunRefused for options and places that can't be.
        """
        given = self.cleaned_data
        options = read_options(
            {option.name: given[option.name] for option in OPTIONS}, kind_of(given["model"])
        )
        same = ("name", "model", "enabled", "crontab", "time_zone", "dataset", "days", "then")
        return {
            **{name: given[name] for name in same},
            "launcher": given["launcher"],
            "resources": read_place(given["launcher"], given),
            "rule_set": given["rules"],
            "seed": given["seed"],
            "options": encode_options(options),
        }

    def show(self, refusal: SentinelleError) -> None:
        """Put a refusal beside the fields that it names."""
        for error in refusal.errors or (FieldError("", refusal.detail),):
            field = WRITTEN_AS.get(error.field, error.field)
            self.add_error(field if field in self.fields else None, error.message)
