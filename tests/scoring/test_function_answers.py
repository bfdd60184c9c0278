"""The function gives the answers of `POST /models/sponsor/predict`, also after a promotion."""

from pathlib import Path
from typing import Any

from django.conf import settings as django_settings

from deployments.pointers import pointer_write
from engine.classifier.definition import read_definition
from scoring.live_classifiers import live_classifiers
from tests.engine.classifiers import SPONSOR, made_up_values
from tests.google.function_server import FunctionServer
from tests.scoring import classifiers
from tests.scoring.conftest import Api

ROOT = Path(__file__).resolve().parents[2]


def test_the_function_answers_as_the_api_does(sponsor: Api) -> None:
    environment = {
        "ARTIFACTS_DIR": str(django_settings.ARTIFACTS_DIR), "CHAMPION_CHECK_SECONDS": "0",
    }  # fmt: skip
    function = FunctionServer(ROOT / "functions", environment, path=str(ROOT))
    values: list[dict[str, Any]] = made_up_values(read_definition(SPONSOR), 20)
    try:
        for version in ("1.0.0", "1.1.0"):
            if version != "1.0.0":
                classifiers.register(version, seed=1)
                classifiers.promote(version)
            # A test's transaction is never over: nothing else would write it.
            pointer_write("sponsor")
            live_classifiers.refresh()
            for inputs in (*values, {"zone": "Moon"}):
                there, here = function.post(inputs), sponsor.predict(inputs)
                assert there.status_code == here.status_code
                assert there.json() == here.json()
            assert function.get().json()["model_version"] == f"v{version}"
    finally:
        function.close()
