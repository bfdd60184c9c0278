"""The feature catalogue, and its one kernel for the live path and for training."""
