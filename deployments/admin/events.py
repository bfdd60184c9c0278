"""The history of promotions and rollbacks, read only."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html

from deployments.admin.base import ReadOnlyAdmin, badge, moment
from deployments.models import AliasEvent, PromotionEvent, RuleSetEvent

KINDS = {"Rollback": "warn", "Proposal": "active"}


class AliasEventAdmin(ReadOnlyAdmin):
    """What both histories show. The newest is first; its times link to the whole event."""

    date_hierarchy = "at"
    ordering = ["-id"]
    search_help_text = "Reason, person or name"

    @admin.display(description="when", ordering="at")
    def when(self, event: AliasEvent) -> str:
        return moment(event.at)

    @admin.display(description="action", ordering="action")
    def what(self, event: AliasEvent) -> str:
        return badge(event.what, KINDS.get(event.what, "good"))

    def get_readonly_fields(self, request: HttpRequest, obj: AliasEvent | None = None) -> list[Any]:
        return list(self.get_fields(request, obj))


@admin.register(PromotionEvent)
class PromotionEventAdmin(AliasEventAdmin):
    """Every move of a champion, and every proposal of a version to take its place."""

    list_display = ["when", "model", "what", "before", "after", "with_rules", "actor", "reason"]
    list_filter = ["model", "alias", "action", "to_version", "at", "actor"]
    list_select_related = ["model", "from_version", "to_version", "rule_set_event__to_rule_set"]
    search_fields = ["reason", "actor", "from_version__version", "to_version__version"]
    fields = [
        *("at", "model", "what", "before", "after", "with_rules"),
        *("actor", "user", "reason", "undoes"),
    ]

    @admin.display(description="from", ordering="from_version__version")
    def before(self, event: PromotionEvent) -> str:
        return f"v{event.from_version.version}" if event.from_version else "–"

    @admin.display(description="to", ordering="to_version__version")
    def after(self, event: PromotionEvent) -> str:
        return format_html("<strong>v{}</strong>", event.to_version.version)

    @admin.display(description="rules moved to")
    def with_rules(self, event: PromotionEvent) -> str:
        moved = getattr(event, "rule_set_event", None)
        return moved.to_rule_set.name if moved else "–"


@admin.register(RuleSetEvent)
class RuleSetEventAdmin(AliasEventAdmin):
    """Every move of the rule set that serves."""

    list_display = [
        "when",
        "model",
        "what",
        "before",
        "to_rule_set",
        "with_model",
        "actor",
        "reason",
    ]
    list_filter = ["model", "action", "to_rule_set", "at", "actor"]
    list_select_related = [
        *("model", "from_rule_set", "to_rule_set"),
        *("promotion__from_version", "promotion__to_version"),
    ]
    search_fields = ["reason", "actor", "from_rule_set__name", "to_rule_set__name"]
    fields = [
        *("at", "model", "what", "before", "to_rule_set", "with_model"),
        *("actor", "user", "reason", "undoes"),
    ]

    @admin.display(description="from", ordering="from_rule_set__name")
    def before(self, event: RuleSetEvent) -> str:
        return event.from_rule_set.name if event.from_rule_set else "–"

    @admin.display(description="together with")
    def with_model(self, event: RuleSetEvent) -> str:
        return str(event.promotion) if event.promotion else "–"
