"""The machine of detached.py's place: `python runner.py PLACE RUN_ID RUN_FOLDER`.

Takes a run unless it is taken, runs its program and writes down how that ended.
"""

import json
import os
import signal
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path

PROGRAM = Path(__file__).resolve().parent / "program.py"


def main(place: Path, run_id: str, run_folder: str) -> int:
    if not write_once(place / f"{run_id}.json", {"pid": os.getpid(), "folder": run_folder}):
        return 0
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append("told"))
    program = subprocess.Popen([sys.executable, str(PROGRAM), run_folder])
    status = program.wait()
    how = f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
    write_once(place / f"{run_id}.ended", {"how": "cancelled" if told else how})
    return 0


def write_once(path: Path, content: dict) -> bool:
    """Whole or not at all, and only if it is absent."""
    staged = path.with_name(f".{uuid.uuid4().hex}")
    staged.write_text(json.dumps(content | {"at": datetime.now(UTC).isoformat()}))
    try:
        path.hardlink_to(staged)
    except FileExistsError:
        return False
    finally:
        staged.unlink()
    return True


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
