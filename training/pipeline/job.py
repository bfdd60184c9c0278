"""The training program: `python -m training.pipeline.job RUN_FOLDER`.

A process of its own everywhere (this machine, a Cloud Run Job, a VM): it knows its run folder and
nothing else. Where a job has no arguments, the variable RUN_FOLDER says it, and VERSION, if set,
which version it has to be of. Exit status: 0 succeeded; 1 failed, `report.json` says at which stage
and why; 2 the arguments or the claim were refused, nothing was done; 3 stopped because its parent
died, a retry took the run over or the run folder stayed out of reach, no report.
"""

import argparse
import os
import select
import signal
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from typing import Any

from engine.errors import SentinelleError
from engine.store import PATIENT_SECONDS, open_store
from training.pipeline.failures import TOLD_TO_STOP, explain, too_much_memory
from training.pipeline.memory import peak_memory_mb, watch_memory
from training.pipeline.run_folder import ClaimRefused, Heartbeat, RunFolder
from training.pipeline.spec import AnySpec, ClassifierSpec, InvalidSpec

SUCCEEDED = 0
FAILED = 1
REFUSED = 2
ABANDONED = 3
STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})
PARENT_POLL_SECONDS = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the training of one run folder; the exit status."""
    options = _parse(arguments)
    # Read when scikit-learn loads OpenMP. By default its threads spin while they wait, which on a
    # machine that also serves takes the cores from the server and doubles the fit's own time.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.meta_path.insert(0, _WithoutPandas())
    folder = RunFolder(open_store(options.run_folder, seconds=PATIENT_SECONDS), options.execution)
    try:
        _check_version(folder, os.environ.get("VERSION", ""))
        folder.claim()
    except SentinelleError as refusal:
        print(refusal.detail, file=sys.stderr)
        return REFUSED
    if options.parent_pid is not None:
        watch_parent(options.parent_pid, lambda: _abandon(folder, "its parent process is gone"))
    # Blocked here and in every thread started later: only the watcher below receives them.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    _watch_signals(folder)
    with Heartbeat(folder, lambda reason: _abandon(folder, reason)):
        status, report = execute(folder)
    try:
        # A signal may have had its report written first.
        return status if folder.finish(report) else FAILED
    except (OSError, SentinelleError) as error:
        # Whoever started the program reads its last line when there is no report.
        reason = report.get("error", explain(error))
        print(f"failed at stage {folder.stage}: {reason}", file=sys.stderr)
        return FAILED


class _WithoutPandas(MetaPathFinder):
    """Nothing here uses pandas, but scikit-learn and pyarrow load it where it is: 50 MB."""

    def find_spec(self, fullname: str, *_: object) -> None:
        """None, which leaves a module to the other finders."""
        if fullname == "pandas":
            raise ModuleNotFoundError("pandas is not used here", name=fullname)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="training.pipeline.job", description="Train one version.")
    parser.add_argument(
        "run_folder",
        nargs="?",
        default=os.environ.get("RUN_FOLDER"),
        help="a folder, or gs://bucket/prefix, with a spec.json (default: the variable RUN_FOLDER)",
    )
    parser.add_argument(
        "--execution",
        default=os.environ.get("CLOUD_RUN_EXECUTION") or uuid.uuid4().hex,
        help="who runs it: a retry under the same name takes the run over, another name is refused "
        "(default: CLOUD_RUN_EXECUTION, else a new name)",
    )
    parser.add_argument(
        "--parent-pid", type=int, help="stop at once when this process, the parent, is gone"
    )
    options = parser.parse_args(arguments)
    if not options.run_folder:
        parser.error(
            "no run folder is given. This program trains the version that the spec.json of a run "
            "folder describes; give its location as the argument or in the variable RUN_FOLDER, "
            "such as gs://bucket/runs/ID. `manage.py train` writes one and starts this program on "
            "it."
        )
    return options


def _check_version(folder: RunFolder, version: str) -> None:
    """Refuse a folder that is of another version than whoever started the program meant."""
    if not version or not folder.has_spec():
        return
    try:
        found = folder.read_spec().version
    except InvalidSpec:
        return  # which the run reports
    if found != version.removeprefix("v"):
        raise ClaimRefused(f"The run folder is of version {found}, but VERSION is {version}.")


def execute(folder: RunFolder) -> tuple[int, dict[str, Any]]:
    """Train what a claimed folder's spec says; the exit status and the report, not yet written.

    Nothing is left of a failure but its report.
    """
    try:
        spec = folder.read_spec()
        folder.log(f"run {spec.run_id}: training {spec.model} v{spec.version}")
        if limit := spec.options.memory_limit_mb:
            watch_memory(limit, lambda used: _stop(folder, too_much_memory(used, limit)))
        report = _train(spec, folder)
    except Exception as error:
        # Which also frees the room that the report needs on a full disk.
        folder.discard_results()
        message = explain(error)
        folder.log(f"failed at stage {folder.stage}: {message}")
        return FAILED, _failure(folder, message, traceback.format_exc())
    folder.progress(stage="done", fraction=1.0, message="")
    folder.log(f"succeeded: {report['manifest_sha256']}")
    return SUCCEEDED, report


def _train(spec: AnySpec, folder: RunFolder) -> dict[str, Any]:
    # Loading scikit-learn, numba and pyarrow takes seconds: with the claim and the heartbeat there
    # first, whoever waits sees at once that the run has started.
    if isinstance(spec, ClassifierSpec):
        from training.pipeline.classifier.stages import train as train_classifier

        return train_classifier(spec, folder)
    from training.pipeline.stages import train

    return train(spec, folder)


def _failure(folder: RunFolder, message: str, details: str) -> dict[str, Any]:
    return {
        "status": "failed",
        "stage": folder.stage,
        "error": message,
        "traceback": details,
        "peak_memory_mb": peak_memory_mb(),
    }


def _watch_signals(folder: RunFolder) -> None:
    """Report a run that is told to stop, at once: the main thread may be in compiled code for a
    minute, where no signal handler runs."""

    def wait() -> None:
        name = signal.Signals(signal.sigwait(STOP_SIGNALS)).name
        _stop(folder, f"{TOLD_TO_STOP} ({name}).")

    threading.Thread(target=wait, name="signals", daemon=True).start()


def _stop(folder: RunFolder, message: str) -> None:
    """End the program now with a report, from a thread."""
    folder.log(f"failed at stage {folder.stage}: {message}")
    if folder.finish(_failure(folder, message, "")):
        folder.discard_results()
    os._exit(FAILED)


def watch_parent(pid: int, gone: Callable[[], None]) -> None:
    """Call `gone` from a thread once the process `pid` has ended."""
    try:
        # Linux: the one way that neither a recycled pid nor an unreaped parent can fool.
        handle = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    except ProcessLookupError:
        gone()
        return

    def wait() -> None:
        if handle is not None:
            select.select([handle], [], [])
        else:
            while os.getppid() == pid:
                time.sleep(PARENT_POLL_SECONDS)
        gone()

    threading.Thread(target=wait, name="parent", daemon=True).start()


def _abandon(folder: RunFolder, reason: str) -> None:
    """Stop without a report: the run is not this process's to finish any more."""
    print(f"abandoned at stage {folder.stage}: {reason}", file=sys.stderr, flush=True)
    os._exit(ABANDONED)


if __name__ == "__main__":
    sys.exit(main())
