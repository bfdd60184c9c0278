"""Run every benchmark and print its table: `make bench` or `python -m benchmarks [NAME …]`."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    names = sorted(path.stem for path in HERE.glob("[a-z]*.py"))
    chosen = sys.argv[1:] or names
    unknown = set(chosen) - set(names)
    if unknown:
        print(
            f"There is no benchmark {', '.join(sorted(unknown))}; choose from {', '.join(names)}."
        )
        return 2
    failed = [
        n for n in chosen if subprocess.run([sys.executable, "-m", f"benchmarks.{n}"]).returncode
    ]
    if failed:
        print(f"Failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
