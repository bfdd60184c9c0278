"""What the pages of decisions, predictions and labels have in common."""

from typing import Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.http import HttpRequest
from django.utils.functional import cached_property

from deployments.admin.base import badge
from engine import kinds
from scoring.models import Verdict

_COUNTED = 10_000
_KINDS = {Verdict.FRAUD: "bad", Verdict.LEGITIMATE: "good"}


class CappedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts no further than 10,000 rows: counting millions takes longer than reading a page."""

    @cached_property
    def count(self) -> int:
        """The number of rows, at most 10,000 of them."""
        rows: Any = self.object_list
        return int(rows.order_by()[:_COUNTED].count())


class VersionFilter(admin.RelatedFieldListFilter):
    """The usual filter, under a name that says what it is, with the versions of one kind."""

    kind: kinds.Kind = kinds.FRAUD

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.title = "version"

    def field_choices(
        self,
        field: Any,
        request: HttpRequest,
        model_admin: admin.ModelAdmin,  # type: ignore[type-arg]
    ) -> list[tuple[str, Any]]:
        """The versions that may have made a row."""
        ordering = self.field_admin_ordering(field, request, model_admin)
        only = {"model__kind": self.kind}
        choices: list[tuple[str, Any]] = field.get_choices(
            include_blank=False, ordering=ordering, limit_choices_to=only
        )
        return choices


def verdict_badge(verdict: str) -> str:
    """A verdict as the lists show it."""
    return badge(verdict, _KINDS[Verdict(verdict)])
