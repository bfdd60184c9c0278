"""The form that starts a rollout."""

import re
from typing import Any, NamedTuple

from django import forms
from django.conf import settings

from deployments.gcp.limits import format_memory, parse_memory
from deployments.models import CloudService, ModelVersion
from deployments.rollouts.services import deployment_serving
from deployments.rollouts.wishes import Wishes, read_wishes
from engine.errors import RunRefused, SentinelleError

GROUPS = (
    ("What", ("service", "project", "region", "version", "canary", "reason")),
    ("The image", ("image",)),
    (
        "What an instance is",
        ("cpu", "memory", "timeout_s", "min_instances", "max_instances", "concurrency"),
    ),
    ("Who may call it, and its variables", ("public", "env")),
)
FIELD_OF = {"memory_mb": "memory", "name": "service"}
"""Fields of errors that the form calls otherwise."""


class Group(NamedTuple):
    """Fields of the form under one heading."""

    title: str
    fields: list[forms.BoundField]


class DeployForm(forms.Form):
    """A version for a service; what it is not told stays as the service has it."""

    service = forms.CharField(max_length=32, help_text="Up to 32 small letters, digits and hyphens")
    project = forms.CharField(max_length=63)
    region = forms.CharField(max_length=63)
    version = forms.ChoiceField()
    canary = forms.IntegerField(
        required=False, min_value=1, max_value=99, label="Canary, percent",
        help_text="Its share of the traffic at first. Empty: all of it, once it decides.",
    )  # fmt: skip
    reason = forms.CharField(
        required=False, max_length=300, widget=forms.TextInput(attrs={"size": 60})
    )
    image = forms.CharField(
        required=False, max_length=500, widget=forms.TextInput(attrs={"size": 80}),
        help_text="Empty: Cloud Build builds it, from a server that has the source.",
    )  # fmt: skip
    cpu = forms.IntegerField(label="Processors", help_text="1, 2, 4, 6 or 8")
    memory = forms.CharField(help_text="Such as 2Gi or 512Mi")
    timeout_s = forms.IntegerField(label="Seconds for a request")
    min_instances = forms.IntegerField(label="Instances at least", help_text="Always paid for")
    max_instances = forms.IntegerField(label="Instances at most")
    concurrency = forms.IntegerField(
        label="Requests at a time", help_text="To one instance, which decides 8 in parallel"
    )
    public = forms.BooleanField(
        required=False, label="Anyone may call it", help_text="A key is still needed to score"
    )
    env = forms.CharField(
        required=False, label="Variables", widget=forms.Textarea(attrs={"rows": 3, "cols": 60}),
        help_text="NAME=VALUE, one a line. Secrets come from Secret Manager by themselves.",
    )  # fmt: skip

    def __init__(self, *args: Any, service: CloudService | None = None, **kwargs: Any) -> None:
        kwargs["initial"] = _suggested(service) | kwargs.get("initial", {})
        super().__init__(*args, **kwargs)
        found = ModelVersion.objects.filter(model__name=settings.MODEL_NAME, deployable=True)
        choice = self.fields["version"]
        assert isinstance(choice, forms.ChoiceField)
        choice.choices = [(row.version, f"v{row.version}") for row in found[:200]]

    @property
    def groups(self) -> list[Group]:
        """The fields under their headings."""
        return [Group(title, [self[name] for name in names]) for title, names in GROUPS]

    def clean_memory(self) -> int:
        """In MiB."""
        try:
            return parse_memory(self.cleaned_data["memory"])
        except RunRefused as refusal:
            raise forms.ValidationError(refusal.errors[0].message) from None

    def clean_env(self) -> dict[str, str]:
        """By name."""
        found = {}
        for line in filter(None, map(str.strip, self.cleaned_data["env"].splitlines())):
            name, equals, value = line.partition("=")
            if not equals or not re.fullmatch(r"\w+", name):
                raise forms.ValidationError(f"“{line}” is not NAME=VALUE.")
            found[name] = value
        return found

    def arguments(self, service: CloudService | None) -> dict[str, Any]:
        """What `rollout_start` is told; variables that are not in the form any more go."""
        told = self.cleaned_data
        place = {name: told[name] for name in ("service", "project", "region", "version")}
        before = read_wishes(service.wishes).env if service else {}
        changes = {name: told[name] for name in Wishes.__struct_fields__ if name in told}
        changes |= {"memory_mb": told["memory"]}
        changes |= {"env": {**dict.fromkeys(before, ""), **told["env"]}}
        more = {name: told[name] for name in ("canary", "image", "reason")}
        return {**place, **more, "changes": changes}

    def show(self, refusal: SentinelleError) -> None:
        """Put an error to its fields."""
        for error in refusal.errors:
            name = FIELD_OF.get(error.field, error.field)
            self.add_error(name if name in self.fields else None, error.message)
        if not refusal.errors:
            self.add_error(None, refusal.detail)


def _suggested(service: CloudService | None) -> dict[str, Any]:
    wishes = read_wishes(service.wishes) if service else Wishes()
    serving = deployment_serving(service) if service else None
    env = "\n".join(f"{name}={value}" for name, value in wishes.env.items())
    return {
        "service": service.name if service else "sentinelle-ml-engine",
        "project": service.project if service else settings.GOOGLE_CLOUD_PROJECT,
        "region": service.region if service else settings.GOOGLE_CLOUD_REGION,
        "image": serving.image if serving else settings.TRAINING_IMAGE,
        "cpu": wishes.cpu,
        "memory": format_memory(wishes.memory_mb),
        "timeout_s": wishes.timeout_s,
        "min_instances": wishes.min_instances,
        "max_instances": wishes.max_instances,
        "concurrency": wishes.concurrency,
        "public": wishes.public,
        "env": env,
    }
