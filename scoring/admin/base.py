"""What the pages of decisions and labels have in common."""

from typing import Any

from django.core.paginator import Paginator
from django.utils.functional import cached_property

from deployments.admin.base import badge
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


def verdict_badge(verdict: str) -> str:
    """A verdict as the lists show it."""
    return badge(verdict, _KINDS[Verdict(verdict)])
