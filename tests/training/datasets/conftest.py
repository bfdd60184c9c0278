"""Importing into a temporary folder, for every test of data sets."""

import csv
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from engine.errors import InvalidDataset
from training.pipeline.datasets import import_files


@pytest.fixture
def importing(tmp_path):
    """Import bytes (or files) as a new data set; returns the summary."""

    class Importing:
        target = tmp_path / "data" / "set"

        def __call__(self, *contents, skip=False, mapping="canonical", **options):
            files = []
            for number, content in enumerate(contents):
                if isinstance(content, Path):
                    files.append(content)
                else:
                    files.append(tmp_path / f"f{number}.csv")
                    files[-1].write_bytes(content)
            return import_files(files, self.target, mapping, "skip" if skip else "stop", **options)

        def refused(self, *contents, **options):
            """The detail of the refusal; nothing may be left behind."""
            with pytest.raises(InvalidDataset) as caught:
                self(*contents, **options)
            assert not self.target.parent.exists() or not list(self.target.parent.iterdir())
            return caught.value.detail

        def rows(self):
            return pq.read_table(self.target / "data.parquet").to_pylist()

        def rejects(self):
            with (self.target / "rejects.csv").open(newline="") as file:
                return list(csv.DictReader(file))

        def again(self):
            shutil.rmtree(self.target)

    return Importing()
