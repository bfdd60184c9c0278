"""The registry in the admin. Everything that moves goes through deployments.services."""

from deployments.admin.events import PromotionEventAdmin, RuleSetEventAdmin
from deployments.admin.keys import ApiKeyAdmin
from deployments.admin.rollouts import CloudServiceAdmin, DeploymentAdmin
from deployments.admin.rule_sets import RuleSetAdmin
from deployments.admin.versions import ModelVersionAdmin

__all__ = [
    "ApiKeyAdmin",
    "CloudServiceAdmin",
    "DeploymentAdmin",
    "ModelVersionAdmin",
    "PromotionEventAdmin",
    "RuleSetAdmin",
    "RuleSetEventAdmin",
]
