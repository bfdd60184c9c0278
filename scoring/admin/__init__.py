"""Decisions, predictions and labels in the admin."""

from scoring.admin.labels import LabelAdmin
from scoring.admin.predictions import PredictionRecordAdmin
from scoring.admin.records import ScoreRecordAdmin

__all__ = ["LabelAdmin", "PredictionRecordAdmin", "ScoreRecordAdmin"]
