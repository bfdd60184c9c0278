"""The form that uploads a data set."""

from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any

from django import forms
from django.conf import settings

from deployments.models import Kind, RegisteredModel
from engine.errors import InvalidDataset

PRESETS = Path(__file__).parent / "pipeline" / "presets"
MAPPING_BYTES = 100_000


class UploadForm(forms.Form):
    """What `upload_create` takes; it does the checks, and its refusals become errors."""

    name = forms.CharField(
        max_length=63,
        help_text="Of the new data set: lower-case letters, digits, - and _.",
    )
    file = forms.FileField(allow_empty_file=True)
    model = forms.ModelChoiceField(
        RegisteredModel.objects.filter(kind=Kind.CLASSIFIER),
        to_field_name="name",
        required=False,
        label="Rows of",
        empty_label="Transactions",
        help_text="A classifier's definition says what its columns are: there is then neither a "
        "mapping file nor a start.",
    )
    preset = forms.ChoiceField(
        label="Columns",
        help_text="How the file's columns are read; docs/datasets.md describes them.",
    )
    mapping = forms.FileField(
        label="Mapping file",
        required=False,
        help_text="Your own description of the columns, in TOML, instead. inspect_dataset proposes "
        "one.",
    )
    start = forms.DateField(
        required=False,
        widget=forms.DateInput(attrs={"type": "date"}),
        help_text="When the file counts hours, as PaySim's do: the first day, in UTC.",
    )
    on_bad_rows = forms.ChoiceField(
        label="Bad rows",
        choices=[
            ("stop", "Import nothing if a row is bad"),
            ("skip", "Leave bad rows out, and list them"),
        ],
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        names = sorted(path.stem for path in PRESETS.glob("*.toml"))
        self.fields["preset"].choices = [(name, name) for name in names]  # type: ignore[attr-defined]
        self.fields["preset"].initial = "canonical"
        self.fields[
            "file"
        ].help_text = f"CSV (also gzipped) or Parquet, at most {settings.UPLOAD_MAX_MB:,} MB."

    def clean_mapping(self) -> str:
        """The text of the mapping file."""
        file = self.cleaned_data["mapping"]
        if file is None:
            return ""
        if file.size > MAPPING_BYTES:
            raise forms.ValidationError("This is no mapping file: it has more than 100 kB.")
        try:
            return str(file.read().decode("utf-8"))
        except UnicodeDecodeError:
            raise forms.ValidationError("This is no mapping file: it is not text.") from None

    def arguments(self) -> dict[str, Any]:
        """The arguments of `upload_create` from a valid form."""
        day = self.cleaned_data["start"]
        start = datetime.combine(day, time(), UTC) if day else None
        return {**self.cleaned_data, "start": start}

    def show(self, refusal: InvalidDataset) -> None:
        """Put a refusal beside the fields that it names."""
        for error in refusal.errors:
            self.add_error(error.field if error.field in self.fields else None, error.message)
        if not refusal.errors:
            self.add_error(None, refusal.detail)
