"""What the way to and from a bucket costs beside a plain copy of the file.

    python -m benchmarks.store [--mb N] [--rounds N]

Files go through the store to a local server that speaks Google's protocol (fake-gcs-server from its
wheel, in memory) and back, and, for comparison, from one folder to another. It measures our side
and the client library's: chunks, checksums, requests. A network is slower. Prints a table and a
line of JSON.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from engine.store import LocalStore, open_store
from tests.google.emulator import start_emulator


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=int, default=32, help="size of the file (32)")
    parser.add_argument("--rounds", type=int, default=3, help="the best of so many counts (3)")
    options = parser.parse_args()
    process, port = start_emulator("")
    os.environ["STORAGE_EMULATOR_HOST"] = f"http://127.0.0.1:{port}"
    try:
        with tempfile.TemporaryDirectory() as folder:
            figures = measure(Path(folder), options.mb, options.rounds)
    finally:
        process.kill()
        process.wait()
    print(f"{'':<10} {'MB/s':>8} {'of a copy':>10}")
    for name, rate in figures.items():
        print(f"{name:<10} {rate:>8,.0f} {rate / figures['copy']:>10.2f}")
    print(json.dumps({"benchmark": "store", "mb": options.mb, **figures}))
    return 0


def measure(folder: Path, megabytes: int, rounds: int) -> dict[str, float]:
    """MB/s of a plain copy, an upload and a download; the best of some rounds."""
    from google.cloud import storage

    storage.Client(project="benchmark").create_bucket("benchmark")
    source, back = folder / "source", folder / "back"
    source.write_bytes(os.urandom(megabytes * 1_000_000))
    local, bucket = LocalStore(folder / "local"), open_store("gs://benchmark/x")

    def rate(work: Callable[[], object]) -> float:
        began = time.perf_counter()
        work()
        return megabytes / (time.perf_counter() - began)

    def best(work: Callable[[], object]) -> float:
        return round(max(rate(work) for _ in range(rounds)), 1)

    figures = {
        "copy": best(lambda: local.upload("file", source)),
        "upload": best(lambda: bucket.upload("file", source)),
        "download": best(lambda: bucket.download("file", back)),
    }
    if back.read_bytes() != source.read_bytes():
        sys.exit("What came back is not what was sent.")
    return figures


if __name__ == "__main__":
    sys.exit(main())
