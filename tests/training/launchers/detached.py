"""A small detached launcher, for tests: a place that outlives the worker, with a program in it.

The place is a folder, as real places are a server elsewhere: any process can ask it about a run.
`start` asks the place to run a program and waits until it has accepted. It accepts a run once,
whoever asks and however often: `runner.py` creates the run's record if it is absent.
"""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from deployments.gcp.errors import CloudError
from engine.store import Store
from training import launchers
from training.launchers import estimate, resources
from training.launchers.base import Launch, PlaceBusy, Seen, program_log

HERE = Path(__file__).resolve().parent
BASE_DIR = HERE.parent.parent.parent
PROGRAM = HERE / "program.py"
GRACE_SECONDS = 0.3


class DetachedLauncher:
    """Runs programs in the place `folder`.

    Files in the place make it refuse: `busy`, `broken` (refuses every start for good).

    Attributes:
        faults: what the next calls of a verb raise, by its name (`start`, `poll`, `cancel`).
        lost_answers: how many of the next starts do their work and then raise.
    """

    is_attached = False
    poll_seconds = 0.05

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: dict[str, list[Exception]] = {}
        self.lost_answers = 0
        self._runners: list[subprocess.Popen[bytes]] = []

    def start(self, launch: Launch) -> str:
        self._fault("start")
        if (self.folder / "busy").exists():
            raise PlaceBusy("Another run has the place.")
        if (self.folder / "broken").exists():
            raise CloudError("Quota exceeded for place_minutes: ask for more.", reason="quota")
        record = self.folder / f"{launch.run_id}.json"
        if not record.exists():
            self._runners.append(self._spawn(launch))
            while not record.exists():
                time.sleep(0.005)
        if self.lost_answers:
            self.lost_answers -= 1
            raise CloudError("The answer was lost.", is_transient=True)
        return launch.run_id

    def find(self, launch: Launch) -> str:
        self._fault("find")
        return launch.run_id if (self.folder / f"{launch.run_id}.json").exists() else ""

    def poll(self, handle: str) -> Seen:
        self._fault("poll")
        record = self._read(f"{handle}.json")
        if record is None:
            return Seen(ended="the place does not know it")
        started_at = datetime.fromisoformat(record["at"])
        ended = self._read(f"{handle}.ended")
        if ended is not None:
            ended_at = datetime.fromisoformat(ended["at"])
            return Seen(ended=ended["how"], started_at=started_at, ended_at=ended_at)
        if not _runs(record["pid"]):
            return Seen(ended="its machine is gone", started_at=started_at)
        return Seen(message="The place has it.", started_at=started_at)

    def cancel(self, handle: str) -> None:
        self._fault("cancel")
        record = self._read(f"{handle}.json")
        if record is None:
            return
        _signal(record["pid"], signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while _runs(record["pid"]) and time.monotonic() < deadline:
            time.sleep(0.01)
        _signal(record["pid"], signal.SIGKILL)

    def logs(self, handle: str, folder: Store) -> str:
        printed = self.folder / f"{handle}.output"
        return program_log(folder) + (printed.read_text() if printed.exists() else "")

    def kill_machine(self, handle: str) -> None:
        """Make all of a run vanish without a word."""
        record = self._read(f"{handle}.json")
        assert record is not None
        _signal(record["pid"], signal.SIGKILL)

    def close(self) -> None:
        """End whatever a failed test has left in the place."""
        for record in self.folder.glob("*.json"):
            self.kill_machine(record.stem)

    def _spawn(self, launch: Launch) -> subprocess.Popen[bytes]:
        with (self.folder / f"{launch.run_id}.output").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, str(HERE / "runner.py"), str(self.folder), *launch[:2]],
                env=os.environ | {"PYTHONPATH": str(BASE_DIR), "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _read(self, name: str) -> dict | None:
        try:
            return json.loads((self.folder / name).read_text())
        except FileNotFoundError:
            return None

    def _fault(self, verb: str) -> None:
        if self.faults.get(verb):
            raise self.faults[verb].pop(0)


def use_detached(monkeypatch: Any, folder: Path) -> DetachedLauncher:
    """Offer the launcher “detached” beside the real ones."""
    folder.mkdir(exist_ok=True)
    launcher = DetachedLauncher(folder)
    install(launcher, monkeypatch.setitem)
    return launcher


def install(launcher: DetachedLauncher, setitem: Any = dict.__setitem__) -> None:
    setitem(launchers._LAUNCHERS, "detached", launcher)
    setitem(resources.KINDS, "detached", resources.LocalResources)
    setitem(estimate.STARTUP_SECONDS, "detached", 0.0)


def _signal(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


def _runs(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rsplit(")", 1)[1].split()[0] != "Z"
