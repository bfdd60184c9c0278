"""A stand-in for the training program on a machine: python stand_in.py BEHAVIOUR RUN_FOLDER …

It claims the run and shows a heartbeat, by a clock that is an hour slow; then

succeed  writes a report and ends        crash   ends without one
beat     goes on, with a heartbeat       hang    goes on without one, and ignores SIGTERM
"""

import json
import os
import signal
import sys
import time
from datetime import UTC, datetime, timedelta

from engine.store import open_store


def main(behaviour: str, location: str) -> int:
    folder = open_store(location)
    claim = {"execution": os.environ["SENTINELLE_RUN"], "token": "x", "host": "h", "pid": 1}
    if not folder.create_if_absent("claim.json", json.dumps(claim).encode()):
        held = json.loads(folder.read("claim.json"))["execution"]
        assert held == os.environ["SENTINELLE_RUN"], f"claimed by {held}"
    if behaviour == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        now = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
        progress = {"stage": "features", "fraction": 0.3, "rows": 7, "message": ""}
        folder.write("progress.json", json.dumps(progress | {"heartbeat_at": now}).encode())
        folder.write("log/000001.txt", b"the program is at work\n")
        if behaviour == "hang":
            time.sleep(600)
        if behaviour != "beat":
            break
        time.sleep(0.1)
    if behaviour == "crash":
        print("Segmentation fault in a library", flush=True)
        return 139
    folder.write("report.json", json.dumps({"status": "failed", "error": "a stand-in"}).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
