"""Rollouts of the engine to Cloud Run, in steps that go on after a kill at any point."""
