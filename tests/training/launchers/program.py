"""A stand-in for the training program, for tests of launchers and of what happens around them.

    python program.py [RUN_FOLDER] [--parent-pid PID]       (or RUN_FOLDER in the environment)

What it does is in its run folder: `behaviour.json`, which `support.write_folder` writes. Every
start leaves `starts/…` there with the process id, so that a test can count them and see whether
they still run.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from datetime import UTC, datetime, timedelta

from engine.store import Store, open_store

BEAT_SECONDS = 0.05
PATIENCE_SECONDS = 60.0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("run_folder", nargs="?", default=os.environ.get("RUN_FOLDER"))
    parser.add_argument("--parent-pid", type=int)
    options = parser.parse_args()
    folder = open_store(options.run_folder)
    behaviour = json.loads(folder.read("behaviour.json"))
    does = behaviour["does"]
    note_start(folder, os.getpid())
    folder.write("log/000001.txt", b"the program has started\n")
    if does == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        note_start(folder, child.pid, name="child")
    beat(folder, behaviour, options.parent_pid)
    if does == "crash":
        print("Segmentation fault in a library", flush=True)
        return 139
    if does == "fail":
        report = {"status": "failed", "stage": "split", "error": "The data set has no frauds."}
        folder.create_if_absent("report.json", json.dumps(report).encode())
        return 1
    publish_prepared(folder)
    return 0


def note_start(folder: Store, pid: int, name: str = "program") -> None:
    folder.write(f"starts/{name}-{uuid.uuid4().hex}", str(pid).encode())


def beat(folder: Store, behaviour: dict, parent: int | None) -> None:
    """Be at work: for `seconds`, or for ever when it hangs."""
    hangs = behaviour["does"] in ("hang", "stubborn", "silent")
    ends = time.monotonic() + (PATIENCE_SECONDS if hangs else behaviour.get("seconds", 0.0))
    ahead = timedelta(seconds=behaviour.get("clock_ahead_s", 0.0))
    while True:
        if parent is not None and os.getppid() != parent:
            sys.exit(3)
        progress = {"stage": "features", "fraction": 0.3, "rows": 700, "message": "700 rows"}
        if behaviour["does"] != "silent":
            progress["heartbeat_at"] = (datetime.now(UTC) + ahead).isoformat()
        folder.write("progress.json", json.dumps(progress).encode())
        if time.monotonic() >= ends:
            return
        time.sleep(BEAT_SECONDS)


def publish_prepared(folder: Store) -> None:
    """What a success leaves: the bundle and the report that lie ready, the report last."""
    report = {"status": "succeeded"}
    for name in folder.list("ready"):
        if name == "ready/report.json":
            report = json.loads(folder.read(name))
        else:
            folder.write(name.removeprefix("ready/"), folder.read(name))
    folder.create_if_absent("report.json", json.dumps(report).encode())


if __name__ == "__main__":
    sys.exit(main())
