"""The control group: a share of the models' blocks that is let through."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from scoring import control
from scoring.models import Attempt, ScoreRecord
from tests import bundles
from tests.scoring.conftest import Api
from tests.scoring.requests import request

ROOT = Path(__file__).resolve().parents[2]
SHARE = 0.05


@pytest.fixture
def blocking(registry: None) -> Api:
    """A caller of a server whose models block everything."""
    from deployments import services

    bundles.register("1.0.0", review=1e-9, block=2e-9)
    bundles.promote("1.0.0")
    _, key = services.api_key_create(name="test", scopes=["score"], created_by="test")
    return Api(key)


def let_through(share: float, wanted: int, names: Callable[[int], str]) -> list[str]:
    """The first ids that are drawn at a share."""
    found = []
    for number in range(100_000):
        if control._is_drawn(names(number), share):
            found.append(names(number))
        if len(found) == wanted:
            break
    return found


def drawn_name() -> str:
    return let_through(SHARE, 1, lambda number: f"drawn-{number}")[0]


def test_a_share_of_the_models_blocks(blocking: Api, settings: Any) -> None:
    """Scores are those of the block; the answer and the record say that it was let through."""
    settings.CONTROL_SHARE = SHARE
    name = drawn_name()
    answers = {}
    for each in (name, "not-drawn"):
        body = request(transaction_id=each, source_wallet_id=each, destination_wallet_id="shop")
        answers[each] = blocking.score(body).json()
    mine, other = answers[name], answers["not-drawn"]
    assert (mine["decision"], other["decision"]) == ("APPROVE", "BLOCK")
    assert mine["reasons"] == ["CONTROL_GROUP", *other["reasons"]]
    assert mine["supervised_score"] == other["supervised_score"]
    record = ScoreRecord.objects.get(attempt__transaction_id=name)
    assert (record.decision, record.control_share) == ("APPROVE", SHARE)
    assert record.risk_score == mine["risk_score"] > 0
    blocked = ScoreRecord.objects.get(attempt__transaction_id="not-drawn")
    assert blocked.control_share is None


def test_asking_again_gives_the_same_whatever_the_share_is_now(
    blocking: Api, settings: Any
) -> None:
    settings.CONTROL_SHARE = SHARE
    body = request(transaction_id=drawn_name())
    first = blocking.score(body)
    settings.CONTROL_SHARE = 0.0
    again = blocking.score(body)
    assert again["Idempotent-Replayed"] == "true"
    assert again.json() == first.json()
    assert first.json()["decision"] == "APPROVE"


def test_history_counts_it_as_approved(blocking: Api, settings: Any) -> None:
    settings.CONTROL_SHARE = SHARE
    blocking.score(request(transaction_id=drawn_name()))
    blocking.score(request(transaction_id="next-1"))
    blocking.score(request(transaction_id="next-2"))
    counts = [
        ScoreRecord.objects.get(attempt__transaction_id=name).features["blocked_tx_last_24h"]
        for name in ("next-1", "next-2")
    ]
    assert counts == [0, 1]


def test_no_block_of_a_rule(blocking: Api, settings: Any) -> None:
    settings.CONTROL_SHARE = SHARE
    answer = blocking.score(request(transaction_id=drawn_name(), country="KP")).json()
    assert answer["decision"] == "BLOCK"
    assert "CONTROL_GROUP" not in answer["reasons"]
    assert not ScoreRecord.objects.filter(control_share__isnull=False).exists()


def test_nothing_that_was_not_blocked(api: Api, settings: Any) -> None:
    settings.CONTROL_SHARE = SHARE
    answer = api.score(request(transaction_id=drawn_name())).json()
    assert (answer["decision"], answer["reasons"]) == ("APPROVE", [])
    assert not ScoreRecord.objects.filter(control_share__isnull=False).exists()


def test_none_by_default(blocking: Api) -> None:
    assert blocking.score(request(transaction_id=drawn_name())).json()["decision"] == "BLOCK"


def test_a_batch_draws_as_single_requests_do(blocking: Api, settings: Any) -> None:
    settings.CONTROL_SHARE = SHARE
    name = drawn_name()
    body = [request(transaction_id=each) for each in ("first", name)]
    answer = blocking.post("/score/batch", {"transactions": body})
    assert answer.status_code == 200, answer.content
    assert Attempt.objects.count() == 2
    assert ScoreRecord.objects.get(control_share=SHARE).attempt.transaction_id == name


def test_the_draw_is_even_and_depends_on_the_secret(settings: Any) -> None:
    names = [f"tx-{number}" for number in range(20_000)]
    drawn = {name for name in names if control._is_drawn(name, SHARE)}
    assert 0.043 < len(drawn) / len(names) < 0.057
    assert {name for name in names if control._is_drawn(name, SHARE / 5)} < drawn
    settings.SECRET_KEY = "another-secret-" * 5
    others = {name for name in names if control._is_drawn(name, SHARE)}
    assert len(drawn & others) < len(drawn) / 5


@pytest.mark.parametrize("value", ["0.06", "-0.01", "many", "nan"])
def test_other_shares_stop_the_start(value: str, tmp_path: Path) -> None:
    changes = {"CONTROL_SHARE": value, "SENTINELLE_HOME": str(tmp_path), "SECRET_KEY": "x" * 50}
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=ROOT,
        env=os.environ | changes,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert f"CONTROL_SHARE is {value!r}; expected a number from 0 to 0.05" in done.stderr


class TestAdmin:
    @pytest.fixture
    def admin(self, blocking: Api, settings: Any) -> Client:
        """Someone who sees a decision of the group and one that is not."""
        settings.CONTROL_SHARE = SHARE
        for name in (drawn_name(), "not-drawn"):
            blocking.score(request(transaction_id=name))
        client = Client()
        client.force_login(User.objects.create_superuser("ada"))
        return client

    def test_the_page_says_so(self, admin: Client) -> None:
        record = ScoreRecord.objects.get(control_share=SHARE)
        page = admin.get(f"/admin/scoring/scorerecord/{record.pk}/change/").content.decode()
        assert "5.00% of the models" in page
        assert "CONTROL_GROUP" in page

    @pytest.mark.parametrize("query", ["control=yes", "reason=CONTROL_GROUP"])
    def test_the_list_can_show_it_alone(self, admin: Client, query: str) -> None:
        page = admin.get(f"/admin/scoring/scorerecord/?{query}").content.decode()
        assert drawn_name() in page
        assert "not-drawn" not in page
