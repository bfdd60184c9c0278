"""`POST /score`: the answer, what is kept of it, and asking twice."""

from scoring.models import Attempt, ScoreRecord
from tests.scoring.conftest import Api
from tests.scoring.requests import request


def test_decision_is_answered_and_kept(api: Api) -> None:
    response = api.score(request(transaction_id="tx_001"))
    assert response.status_code == 200, response.content
    answer = response.json()
    print(answer)
    record = ScoreRecord.objects.get(attempt__transaction_id="tx_001")
    print(record.__dict__)
