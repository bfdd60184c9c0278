"""Launchers: one conformance suite, and what kills a run at every state."""
