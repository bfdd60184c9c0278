"""Which stage a run is in, how far it is, and what each stage cost."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from training.pipeline.memory import restart_peak
from training.pipeline.run_folder import RunFolder

# Where each stage ends, as a share of the whole run.
ENDS = {
    "load": 0.04,
    "split": 0.05,
    "features": 0.15,
    "supervised": 0.55,
    "unsupervised": 0.60,
    "scores": 0.75,
    "policy": 0.85,
    "evaluate": 0.92,
    "export": 0.96,
    "bundle": 1.0,
}


class Progress:
    """Tells the run folder which stage is running and how far it is; keeps what stages cost."""

    def __init__(self, folder: RunFolder, ends: Mapping[str, float] = ENDS) -> None:
        """`ends`: where each stage ends, as a share of the whole run."""
        self.folder = folder
        self._ends = ends
        self.timings: dict[str, float] = {}
        """Seconds by stage."""
        self.peaks: dict[str, int] = {}
        """Peak memory by stage, MB."""
        self._begin = 0.0
        self._end = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Run a stage: its name is the run's stage until the next one begins."""
        self._begin, self._end = self._end, self._ends[name]
        self.folder.progress(stage=name, fraction=self._begin, message="")
        self.folder.log(f"{name}: started")
        self.folder.flush()
        restart_peak()
        started = time.monotonic()
        yield
        self.timings[name] = round(time.monotonic() - started, 3)
        self.peaks[name] = restart_peak()
        self.folder.log(
            f"{name}: done in {self.timings[name]:.1f} s, peak memory {self.peaks[name]:,} MB"
        )

    def within(self, share: float, message: str) -> None:
        """Note that this share of the stage is done."""
        fraction = self._begin + min(share, 1.0) * (self._end - self._begin)
        self.folder.progress(fraction=round(fraction, 4), message=message)
