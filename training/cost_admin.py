"""“Costs” beside the training runs in the admin, for whoever may see the runs."""

from datetime import date
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.utils import timezone

from deployments.admin.base import ReadOnlyAdmin
from engine.errors import RunRefused
from training.budgets import month_of
from training.cost_page import costs_context
from training.cost_report import costs_csv, month_costs, read_month


class CostsAdmin(ReadOnlyAdmin):
    """Adds the page and the file to the pages of the training runs."""

    def get_urls(self) -> list[Any]:
        wrap = self.admin_site.admin_view
        return [
            path("costs/", wrap(self.costs_view), name="training_trainingrun_costs"),
            path("costs/file/", wrap(self.costs_file_view), name="training_trainingrun_costs_file"),
            *super().get_urls(),
        ]

    def costs_view(self, request: HttpRequest) -> HttpResponse:
        """A month, its budgets, the months before and the prices."""
        context = costs_context(self._month(request), timezone.now())
        return self.page(request, "costs", "Costs", media=self.media, **context)

    def costs_file_view(self, request: HttpRequest) -> HttpResponse:
        """A month as CSV."""
        month = self._month(request)
        name = f"costs-{month:%Y-%m}.csv"
        return HttpResponse(
            costs_csv(month_costs(month, timezone.now())),
            content_type="text/csv",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    def _month(self, request: HttpRequest) -> date:
        if not self.has_view_permission(request):
            raise PermissionDenied
        now = timezone.now()
        try:
            return read_month(request.GET.get("month", ""), now)
        except RunRefused as refusal:
            messages.warning(request, refusal.detail)
            return month_of(now)
