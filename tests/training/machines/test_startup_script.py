"""What is on the machine: a script without a shell's traps, and an archive that is complete."""

import ast
import io
import subprocess
import sys
import tarfile
from pathlib import Path

from training.launchers import source
from training.launchers.vm import SCRIPT

COMMANDS = Path(__file__).parents[2] / "google" / "commands"
# What is imported under another name than that of its package.
IMPORTED_AS = {
    "cel": "common-expression-language",
    "google": "google-cloud-storage",
    "google_crc32c": "google-cloud-storage",
    "sklearn": "scikit-learn",
}


def test_shellcheck_finds_nothing():
    tool = Path(sys.executable).with_name("shellcheck")
    scripts = [SCRIPT, *sorted(COMMANDS.iterdir())]
    found = subprocess.run([tool, *scripts], capture_output=True, text=True, check=False)
    assert found.stdout + found.stderr == ""


def test_the_archive_is_always_the_same_and_has_its_own_digest_for_a_name():
    digest, content = source.source_archive()
    source.source_archive.cache_clear()
    assert source.source_archive() == (digest, content)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        names = archive.getnames()
        listed = archive.extractfile("requirements-training.txt").read().decode().split()
    assert {"training/pipeline/job.py", "engine/default_rules.toml", "requirements.txt"} <= set(
        names
    )
    assert not any("__pycache__" in name or name.startswith("training/launchers") for name in names)
    assert tuple(listed) == source.PACKAGES


def test_the_archive_brings_every_package_that_the_program_imports():
    files = [path for part in source.PARTS for path in (source.BASE_DIR / part).rglob("*.py")]
    outside = set().union(*(_imported(path) for path in files)) - set(sys.stdlib_module_names)
    packages = {IMPORTED_AS.get(name, name) for name in outside - {"engine", "training"}}
    assert packages == set(source.PACKAGES)


def _imported(path):
    """The first parts of what a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found
