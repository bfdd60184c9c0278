"""How good the scores are, on rows that nothing was fitted or tuned on.

Accuracy is not reported: with 2 frauds in 1,000 rows, approving everything is 99.8 % accurate.
"""

from training.pipeline.evaluate.curves import curves
from training.pipeline.evaluate.metrics import ChampionFacts, evaluate, rank
from training.pipeline.evaluate.part import Scores, TestPart

__all__ = ["ChampionFacts", "Scores", "TestPart", "curves", "evaluate", "rank"]
