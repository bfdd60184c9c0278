"""What kinds of registered models there are."""

from typing import Final, Literal

Kind = Literal["fraud", "classifier"]

FRAUD: Final = "fraud"
"""Scores transactions: rules, a boosting and an isolation forest behind one decision."""
CLASSIFIER: Final = "classifier"
"""Tells which class a row belongs to; its inputs and classes are a TOML file's."""
