"""The run folder: how the pipeline and whatever launched it talk.

    spec.json  claim.json  progress.json  log/000001.txt…  report.json  predictions.parquet  bundle/

Everything goes through an object store, so the same code runs on a laptop's folder and on a bucket.
"""

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from engine.errors import SentinelleError, StoreUnavailable
from engine.store import PATIENT_SECONDS, BucketStore, Store
from training.pipeline.failures import explain
from training.pipeline.spec import AnySpec, decode_spec

HEARTBEAT_SECONDS = 2.0
BUCKET_HEARTBEAT_SECONDS = 10.0
"""A bucket charges for each write."""
SPEC = "spec.json"
CLAIM = "claim.json"
BUNDLE = "bundle"
PREDICTIONS = "predictions.parquet"
REPORT = "report.json"
PROGRESS = "progress.json"


class ClaimRefused(SentinelleError):
    """There is no run, it belongs to another execution, or it is already finished."""

    code = "RUN_CLAIMED"


class RunFolder:
    """One execution's hold on a run folder: claim, progress, log, report.

    Args:
        store: opened on the run folder itself.
        execution: who runs it. The retry of the same execution takes the run over; another
            execution is refused.
    """

    def __init__(self, store: Store, execution: str) -> None:
        self.store = store
        self.execution = execution
        self._token = uuid.uuid4().hex
        self._progress: dict[str, Any] = {
            "stage": "start",
            "fraction": 0.0,
            "rows": 0,
            "message": "",
        }
        self._lines: list[str] = []
        self._lock = threading.Lock()
        self._flush_lock = threading.Lock()
        self._chunk = 0

    def has_spec(self) -> bool:
        """Whether the folder is of a run."""
        return self.store.exists(SPEC)

    def read_spec(self) -> AnySpec:
        """Raises: InvalidSpec: `spec.json` is malformed."""
        return decode_spec(self.store.read(SPEC))

    def claim(self) -> None:
        """Take the run, and clear what a killed attempt of this execution left.

        Raises:
            ClaimRefused: another execution has it, it has its report, or there is no `spec.json`.
        """
        if not self.has_spec():
            raise ClaimRefused("There is no spec.json in the run folder.")
        if self.store.exists(REPORT):
            raise ClaimRefused("This run is finished: it has a report. Start a new run instead.")
        claim = _encode(
            {
                "execution": self.execution,
                "token": self._token,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "claimed_at": _now(),
            }
        )
        if not self.store.create_if_absent(CLAIM, claim):
            holder = msgspec.json.decode(self.store.read(CLAIM))["execution"]
            if holder != self.execution:
                raise ClaimRefused(f"This run is claimed by the execution {holder!r}.")
            self.store.write(CLAIM, claim)
        self.discard_results()
        self._chunk = len(self.store.list("log"))

    def holds_claim(self) -> bool:
        """False once a retry of this execution has taken the run over."""
        claim = msgspec.json.decode(self.store.read(CLAIM))
        return bool(claim["token"] == self._token)

    def progress(
        self,
        *,
        stage: str | None = None,
        fraction: float | None = None,
        rows: int | None = None,
        message: str | None = None,
    ) -> None:
        """Note how far the run is, for the next flush. What is not given stays."""
        given = {"stage": stage, "fraction": fraction, "rows": rows, "message": message}
        with self._lock:
            self._progress.update({key: value for key, value in given.items() if value is not None})

    def log(self, line: str) -> None:
        """Add a line, with its time, to the log, for the next flush."""
        with self._lock:
            self._lines.append(f"{_now()} {line}\n")

    def flush(self) -> None:
        """Write the progress and, as one new chunk, the lines since the last flush."""
        with self._flush_lock:
            with self._lock:
                lines = self._lines.copy()
                progress = {**self._progress, "heartbeat_at": _now()}
            if lines:
                self.store.write(f"log/{self._chunk + 1:06d}.txt", "".join(lines).encode())
                self._chunk += 1
                with self._lock:
                    del self._lines[: len(lines)]  # not before: a flush that fails loses none
            self.store.write(PROGRESS, _encode(progress))

    def finish(self, report: dict[str, Any]) -> bool:
        """Write the report, once: False if the run already had one (it then stays)."""
        self.flush()
        return self.store.create_if_absent(REPORT, _encode(report))

    @property
    def stage(self) -> str:
        """The stage that the run is in."""
        return str(self._progress["stage"])

    def discard_results(self) -> None:
        """Delete the bundle and the predictions, whole or half-written."""
        # The manifest first: a bundle is one only while it has it.
        leftovers = self.store.list(BUNDLE)
        manifest = f"{BUNDLE}/manifest.json"
        for name in sorted(leftovers, key=lambda name: name != manifest):
            self.store.delete(name)
        self.store.delete(PREDICTIONS)


class Heartbeat:
    """A thread that flushes the folder every few seconds while the work goes on, so that a hung or
    killed run can be told from a slow one.

    Args:
        lost: called once, from the thread, when a retry has taken the run over or the folder can no
            longer be written. Work must then stop.
        seconds: between two beats; by default 2 in a folder and 10 in a bucket.
        patience: how long a bucket may be unavailable before the folder counts as lost.
    """

    def __init__(
        self,
        folder: RunFolder,
        lost: Callable[[str], None],
        seconds: float | None = None,
        patience: float = PATIENT_SECONDS,
    ) -> None:
        in_bucket = isinstance(folder.store, BucketStore)
        self._folder = folder
        self._lost = lost
        self._seconds = seconds or (BUCKET_HEARTBEAT_SECONDS if in_bucket else HEARTBEAT_SECONDS)
        self._patience = patience
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._folder.flush()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        due = alive = time.monotonic()
        while True:
            due = max(due + self._seconds, time.monotonic())
            if self._stop.wait(due - time.monotonic()):
                return
            try:
                held = self._beat()
            except Exception as error:
                waits = isinstance(error, StoreUnavailable)
                if waits and time.monotonic() < alive + self._patience:
                    continue
                self._lost(f"the run folder can't be written: {explain(error)}")
                return
            if not held:
                self._lost("a retry of this execution has taken the run over")
                return
            alive = time.monotonic()

    def _beat(self) -> bool:
        """Flush, unless the run is another's by now; say whether it is ours."""
        if not self._folder.holds_claim():
            return False
        self._folder.flush()
        return True


def _encode(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=1)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
