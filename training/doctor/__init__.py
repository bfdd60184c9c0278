"""Walks through everything that a running Sentinelle needs, and says what to do where it fails."""

from training.doctor.checks import Check, Fault, Finding, NotLooked, State, look

__all__ = ["Check", "Fault", "Finding", "NotLooked", "State", "look"]
