"""Every gcloud command that is written here is one that gcloud knows, and says where."""

import ast
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("deployments", "engine", "scoring", "sentinelle", "templates", "training", "docs")
# A command ends where the sentence or the shell's command does.
COMMAND = re.compile(r"\bgcloud (?:[a-z]+-?)+(?: (?:\[|[^\s`|;()“”'\"]|'[^']*'|\"[^\"]*\")+)*")
# It quotes the commands of others, as they were written.
QUOTES = "docs/scripts.md"
NOWHERE = ("gcloud auth", "gcloud config", "gcloud version", "gcloud meta")
"""These belong to a person, not to a project."""
REGIONAL = ("run", "builds", "artifacts")
ZONAL = ("compute instances", "compute ssh", "compute disks")


def files() -> Iterator[Path]:
    yield from sorted(ROOT.glob("*.md"))
    yield from [ROOT / "Dockerfile", ROOT / "Makefile", ROOT / "cloudbuild.yaml", ROOT / ".ci/run"]
    for folder in FOLDERS:
        for kind in ("*.md", "*.py", "*.sh", "*.html", "*.toml", "*.yaml"):
            found = sorted((ROOT / folder).rglob(kind))
            yield from (file for file in found if file != ROOT / QUOTES)


def texts(file: Path) -> Iterator[str]:
    """What a person may read: the file, or of Python its strings as they are put together."""
    source = file.read_text()
    if file.suffix == ".py":
        tree = ast.parse(source)
        joined = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
        parts = {id(part) for node in joined for part in node.values}
        yield from (_text(n) for n in ast.walk(tree) if _is_text(n) and id(n) not in parts)
    else:
        yield re.sub(r"\s*\\\n\s*#?\s*", " ", source)


def _is_text(node: ast.AST) -> bool:
    if isinstance(node, ast.JoinedStr):
        return True
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    parts = node.values if isinstance(node, ast.JoinedStr) else []
    return "".join(_text(part) if isinstance(part, ast.Constant) else "x" for part in parts)


def commands() -> list[tuple[str, str]]:
    """File and command, with a word for each placeholder."""
    found = set()
    for file in files():
        for text in texts(file):
            for match in COMMAND.finditer(re.sub(r"\{\w+\}", "x", text)):
                command = re.sub(r"[.,:]+$", "", match.group()).removesuffix(" --")
                found.add((file.relative_to(ROOT).as_posix(), _up_to_prose(command)))
    return sorted(found)


def _up_to_prose(command: str) -> str:
    """Cut at the full stop of a sentence that goes on after the command."""
    return re.split(r"(?<=\w)[.,] ", command)[0]


def fenced_lines() -> list[tuple[str, str]]:
    """The lines of code blocks of the docs that call gcloud."""
    found = []
    for file in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for block in re.findall(r"```\w*\n(.*?)```", file.read_text(), re.S):
            for line in re.sub(r"\s*\\\n\s*", " ", block).splitlines():
                found += [(file.name, line)] if "gcloud " in line else []
    return found


def test_commands_are_found_where_they_are_written() -> None:
    where = {file for file, _ in commands()}
    assert {
        "docs/cloud.md",
        "docs/image.md",
        "cloudbuild.yaml",
        "deployments/gcp/errors.py",
    } <= where


@pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not installed here")
def test_gcloud_knows_every_command(tmp_path: Path) -> None:
    listed = tmp_path / "commands.json"
    written = sorted({command for _, command in commands()})
    listed.write_text(json.dumps([{"command_string": command} for command in written]))
    run = subprocess.run(
        ["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={listed}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if not run.stdout.startswith("["):
        pytest.skip(f"this gcloud has no linter: {run.stderr.strip()[:200]}")
    verdicts, _ = json.JSONDecoder().raw_decode(run.stdout)
    assert len(verdicts) == len(written)
    faults = {v["command_string"]: v["error_message"] for v in verdicts if not v["success"]}
    assert faults == {}


@pytest.mark.parametrize(("file", "line"), fenced_lines(), ids=lambda value: str(value)[:60])
def test_a_command_to_copy_says_where(file: str, line: str) -> None:
    if any(command in line for command in NOWHERE):
        return
    assert "--project" in line
    if re.search(rf"gcloud ({'|'.join(REGIONAL)}) ", line):
        assert re.search("--(region|location)", line)
    if re.search(rf"gcloud ({'|'.join(ZONAL)}) ", line):
        assert "--zone" in line
