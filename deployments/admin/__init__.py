"""The registry in the admin. Everything that moves goes through deployments.services."""

from deployments.admin.events import PromotionEventAdmin, RuleSetEventAdmin
from deployments.admin.keys import ApiKeyAdmin
from deployments.admin.rule_sets import RuleSetAdmin
from deployments.admin.versions import ModelVersionAdmin

__all__ = [
    "ApiKeyAdmin",
    "ModelVersionAdmin",
    "PromotionEventAdmin",
    "RuleSetAdmin",
    "RuleSetEventAdmin",
]
