"""Files that can't be read, disks that fail, imports that are killed."""

import gzip
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from engine.errors import InvalidDataset
from tests.training.datasets.support import HEADER, line, text
from training.pipeline.datasets import import_files


def test_missing_columns(importing):
    detail = importing.refused(b"transaction_id,montant\nt1,5\n")
    assert "columns missing: created_at, amount" in detail
    assert "Found: transaction_id, montant" in detail


def test_unknown_columns_stop_or_are_left_out(importing):
    content = text(line(1) + ",x", header=HEADER + ",contry")
    assert "unknown columns: contry" in importing.refused(content)
    assert importing(content, skip=True).ignored_columns == ("contry",)


def test_a_column_twice(importing):
    assert "column twice: amount" in importing.refused(
        text(line(1) + ",1", header=HEADER + ",amount")
    )


def test_another_separator_is_recognisable(importing):
    assert "columns missing" in importing.refused(text(header=HEADER.replace(",", ";")))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "f0.csv is empty"),
        (b"\n\n", "f0.csv is empty"),
        (gzip.compress(b"", mtime=0), "f0.csv is empty"),
        (text(), "a header and no rows"),
        (text(line(1)).decode().encode("utf-16"), "UTF-16"),
        (b"\xe9\xe8,a\n1,2\n", "the header is not UTF-8 text"),
        (b'"a" ,b\n1,2\n', 'the header has text or a blank after a closing quote: "a" ,b'),
        (b'"a,b\n1,2\n', 'the header has a quote that is never closed: "a,b'),
        (b'"' + b"a" * 200_000 + b'",b\n1,2\n', "the header has field larger than field limit"),
        (gzip.compress(text(*map(line, range(2000))), mtime=0)[:-600], "truncated"),
        (gzip.compress(text(line(1)), mtime=0)[:-5], "truncated"),
        (gzip.compress(text(line(1)), mtime=0)[:-8] + b"\0" * 8, "damaged gzip"),
        (b"\x1f\x8b not gzip at all", "damaged gzip"),
        (b"PAR1 not parquet at all", "not a readable Parquet file"),
    ],
)
@pytest.mark.parametrize("skip", [False, True])
def test_files_that_cannot_be_read(importing, content, said, skip):
    assert said in importing.refused(content, skip=skip)


def test_a_packed_file_that_becomes_far_too_large_is_refused(importing, monkeypatch):
    monkeypatch.setattr("training.pipeline.csv_lines.UNPACKED_BYTES", 1_000_000)
    bomb = gzip.compress(text(line(1)) + b" " * 1_000 + (line(2) + "\n").encode() * 200_000)
    detail = importing.refused(bomb)
    assert "unpacks to more than" in detail
    assert "unpack it first" in detail
    importing(gzip.compress(text(*map(line, range(2000)))))


def test_an_import_leaves_some_of_the_disk_free(importing, monkeypatch):
    monkeypatch.setattr("training.pipeline.csv_lines.FREE_BYTES", 10**18)
    assert "MB are left on the disk" in importing.refused(text(line(1), line(2)))


def test_missing_file_and_folder(importing, tmp_path):
    assert "No such file" in importing.refused(tmp_path / "none.csv")
    assert "is a folder" in importing.refused(tmp_path)


def test_one_bad_file_of_several_imports_nothing(importing):
    good = text(line(1))
    assert "truncated" in importing.refused(good, gzip.compress(text(line(2)))[:-5], skip=True)


def test_a_data_set_is_never_overwritten(importing):
    importing(text(line(1)))
    with pytest.raises(InvalidDataset, match="exists already"):
        importing(text(line(2)))
    assert importing.rows()[0]["transaction_id"] == "t1"


@pytest.mark.parametrize(
    "failure",
    [
        OSError(28, "No space left on device"),
        duckdb.IOException("No space left on device\n\nLINE 1: COPY"),
        duckdb.OutOfMemoryException("No space left on device\nPossible solutions: none"),
    ],
)
@pytest.mark.parametrize("step", ["staging.write_sorted", "datasets.connected"])
def test_a_failing_disk_is_a_clear_refusal(importing, monkeypatch, step, failure):
    def fail(*_):
        raise failure

    monkeypatch.setattr(f"training.pipeline.{step}", fail)
    detail = importing.refused(text(line(1)))
    assert f"Importing into {importing.target} failed" in detail
    assert "No space left on device" in detail
    assert "\n" not in detail


def test_a_file_that_may_not_be_read(importing, tmp_path, monkeypatch):
    open_path = Path.open

    def refuse(path, *args, **options):
        if path.name == "mine.csv":
            raise PermissionError(13, "Permission denied", str(path))
        return open_path(path, *args, **options)

    path = tmp_path / "mine.csv"
    path.write_bytes(text(line(1)))
    monkeypatch.setattr(Path, "open", refuse)  # the tests may run as root
    assert "mine.csv can't be read: Permission denied." in importing.refused(path)


def test_a_folder_that_cannot_be_made(importing, tmp_path):
    (tmp_path / "file").touch()
    importing.target = tmp_path / "file" / "data" / "set"
    assert "failed, and nothing was imported: Not a directory." in importing.refused(text(line(1)))


def test_an_interruption_leaves_nothing(importing):
    def interrupt(step, _fraction):
        if step == "sorting":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        importing(text(line(1)), progress=interrupt)
    assert list(importing.target.parent.iterdir()) == []


def test_what_a_killed_import_left_goes_with_the_next(importing, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_bytes(text(line(1)))
    program = (
        "import os, sys, pathlib\n"
        "from training.pipeline.datasets import import_files\n"
        "path, target = map(pathlib.Path, sys.argv[1:])\n"
        "import_files([path], target, 'canonical', progress=lambda *_: os._exit(9))"
    )
    arguments = [sys.executable, "-c", program, str(path), str(importing.target)]
    assert subprocess.run(arguments).returncode == 9
    (left,) = importing.target.parent.iterdir()
    assert left.name.startswith(".importing-")
    importing(path)
    assert list(importing.target.parent.iterdir()) == [importing.target]


def test_an_import_at_work_is_left_alone_by_another(importing, tmp_path):
    def import_another(step, _fraction):
        if step == "sorting":
            path = tmp_path / "f0.csv"
            import_files([path], importing.target.with_name("other"), "canonical")

    importing(text(line(1)), progress=import_another)
    names = sorted(path.name for path in importing.target.parent.iterdir())
    assert names == ["other", "set"]
