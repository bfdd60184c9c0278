"""Decisions and labels in the admin."""

from scoring.admin.labels import LabelAdmin
from scoring.admin.records import ScoreRecordAdmin

__all__ = ["LabelAdmin", "ScoreRecordAdmin"]
