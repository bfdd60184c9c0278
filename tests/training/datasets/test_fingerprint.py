"""The fingerprint is of the content, not of the files."""

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.training.datasets.support import HEADER, PAYSIM_HEADER, PAYSIM_ROWS, line, text

LINES = [line(n, created_at=f"2026-01-01T00:00:{n % 60:02}Z") for n in range(300)]


def test_is_of_the_content_not_of_the_files(importing, tmp_path):
    whole = importing(text(*LINES))
    importing.again()
    parts = importing(text(*LINES[:100]), gzip.compress(text(*LINES[100:])))
    importing.again()
    spelt = importing(text(*(row.replace("12.5", '"12.50"') for row in LINES)))
    importing.again()
    path = tmp_path / "same.parquet"
    names = HEADER.split(",")
    rows = [dict(zip(names, row.split(","), strict=True)) for row in LINES]
    pq.write_table(pa.Table.from_pylist(rows), path)
    parquet = importing(path)
    prints = {s.fingerprint for s in (whole, parts, spelt, parquet)}
    assert prints == {whole.fingerprint}


@pytest.mark.parametrize("change", ["value", "order", "row", "null"])
def test_tells_contents_apart(importing, change):
    one = importing(text(*LINES)).fingerprint
    importing.again()
    changed = list(LINES)
    if change == "value":
        changed[7] = line(7, amount="12.51", created_at="2026-01-01T00:00:07Z")
    elif change == "order":  # two rows of the same second
        changed[7], changed[67] = changed[67], changed[7]
    elif change == "row":
        changed.pop()
    header = HEADER
    if change == "null":
        header, changed = HEADER + ",city", [row + ",Lyon" for row in changed]
    assert importing(text(*changed, header=header)).fingerprint != one


def test_stays_what_it_was(importing):
    """Runs and their reports name it: a newer version must give the same."""
    first = importing(text(*LINES)).fingerprint
    assert first == "de7db03356c923abacdec3162225535e0d2e5bea001e3cc6d10f2f215a96723e"
    importing.again()
    second = importing(text(*PAYSIM_ROWS, header=PAYSIM_HEADER), mapping="paysim").fingerprint
    assert second == "f7e20ae0d7a6b8c30af8da2dcd08438c2c437104701a19ac87e1c3439a2ee4cf"
