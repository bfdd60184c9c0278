"""A stand-in for the training program, for tests of what happens around it.

python fake_job.py BEHAVIOUR RUN_FOLDER --parent-pid PID
"""

import json
import os
import signal
import sys
import time
from pathlib import Path


def main(behaviour: str, folder: Path) -> int:
    (folder / "pid").write_text(str(os.getpid()))
    progress = {"stage": "features", "fraction": 0.3, "rows": 700, "message": "700 rows"}
    (folder / "progress.json").write_text(json.dumps(progress))
    if behaviour == "hang":
        time.sleep(60)
    elif behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(60)
    elif behaviour == "crash":
        print("Segmentation fault in a library")
        return 139
    elif behaviour == "fail":
        report = {"status": "failed", "stage": "split", "error": "The data set has no frauds."}
        (folder / "report.json").write_text(json.dumps(report))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
