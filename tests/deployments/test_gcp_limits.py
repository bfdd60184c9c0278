"""The dated table of what Google allows."""

import pytest

from deployments.gcp.limits import (
    check_job,
    format_memory,
    job_limits,
    machine_types,
    parse_memory,
)
from engine.errors import RunRefused

GOOD = {"cpu": 8, "memory_mb": 8192, "timeout_s": 7200, "retries": 1}


def faults(**changes):
    """The fields that are refused, with what is said."""
    with pytest.raises(RunRefused) as caught:
        check_job(**GOOD | changes)
    return dict(caught.value.errors)


def test_the_default_job_is_allowed():
    check_job(**GOOD)


@pytest.mark.parametrize("size", job_limits().sizes, ids=lambda size: f"{size.cpu}-cpu")
def test_a_size_is_allowed_to_its_bounds_and_no_further(size):
    for memory in (size.memory_min_mb, size.memory_max_mb):
        check_job(**GOOD | {"cpu": size.cpu, "memory_mb": memory})
    for memory in (size.memory_min_mb - 1, size.memory_max_mb + 1):
        assert list(faults(cpu=size.cpu, memory_mb=memory)) == ["memory_mb"]


def test_sixteen_processors_are_refused_with_what_there_is():
    # The seeds' example, which Cloud Run jobs do not have.
    assert faults(cpu=16, memory_mb=16384) == {
        "cpu": "16 processors; Cloud Run has 1, 2, 4, 6 or 8"
    }


def test_too_little_processor_for_the_memory_says_which_would_do():
    assert faults(cpu=2, memory_mb=16384) == {
        "memory_mb": "16Gi; 2 processors may have 512Mi to 8Gi; 16Gi goes with 4, 6 or 8"
    }


def test_more_memory_than_there_is_says_the_most():
    assert "the most is 32Gi" in faults(memory_mb=65536)["memory_mb"]


def test_every_fault_is_named_at_once():
    found = faults(cpu=3, timeout_s=604801, retries=11)
    assert list(found) == ["cpu", "timeout_s", "retries"]
    assert found["timeout_s"] == "604801 s; allowed are 1 to 604800 (7 days)"


def test_a_refusal_says_whose_table_it_is_and_of_when():
    with pytest.raises(RunRefused, match=r"docs\.cloud\.google\.com/run.*\d{4}-\d\d-\d\d"):
        check_job(**GOOD | {"retries": -1})


@pytest.mark.parametrize(
    ("text", "mib"), [("16Gi", 16384), ("512Mi", 512), ("16384", 16384), (" 8Gi ", 8192)]
)
def test_memory_is_read(text, mib):
    assert parse_memory(text) == mib


@pytest.mark.parametrize("text", ["16G", "16 Gi", "-1", "", "lots", "1.5Gi"])
def test_memory_that_is_no_amount_is_refused(text):
    with pytest.raises(RunRefused, match="16Gi"):
        parse_memory(text)


def test_memory_is_written_as_it_is_read():
    assert [format_memory(mb) for mb in (8192, 1536)] == ["8Gi", "1536Mi"]


def test_the_free_machine_is_known_for_what_it_has():
    micro = machine_types()["e2-micro"]
    assert (micro.vcpu, micro.share, micro.memory_mb) == (2, 0.25, 1024)
