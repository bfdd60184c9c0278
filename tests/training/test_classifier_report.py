"""What the report of a classifier's run says, from what the training program wrote."""

import copy
import re
from typing import Any

import pytest
from django.template.loader import render_to_string

from training.metrics import text_table
from training.report import all_tables, remedy, report_context

COUNTS = [[90, 10, 0], [5, 45, 0], [0, 1, 49]]
REPORT: dict[str, Any] = {
    "kind": "classifier",
    "metrics": {
        "kind": "classifier",
        "rows": 200,
        "accuracy": 0.92,
        "accuracy_interval": [0.88, 0.95],
        "balanced_accuracy": 0.926,
        "macro_f1": 0.914,
        "log_loss": 0.31,
        "top_3_accuracy": 1.0,
        "most_frequent_accuracy": 0.5,
        "best_possible_accuracy": 0.94,
        "expected_calibration_error": 0.0123,
        "per_class": {
            "Glace": {"rows": 100, "precision": 0.947, "recall": 0.9, "f1": 0.923},
            "<b>9</b>": {"rows": 50, "precision": 0.804, "recall": 0.9, "f1": 0.849},
            "Volt": {"rows": 50, "precision": 1.0, "recall": 0.98, "f1": 0.99},
        },
        "champion": None,
        "baselines": {},
        "differences": {},
    },
    "curves": {
        "confusion": {"labels": ["Glace", "<b>9</b>", "Volt"], "counts": COUNTS},
        "reliability": [{"mean_confidence": 0.9, "accuracy": 0.92, "rows": 200}],
    },
    "importances": [],
    "timings": {"fit": 2.0},
}
CHAMPION = {
    "champion": {"version": "1.0.0", "same_scores": False},
    "baselines": {"champion": {"accuracy": 0.9, "macro_f1": 0.9}},
    "differences": {"champion": {"accuracy": {"difference": 0.02, "interval": [0.01, 0.03]}}},
}


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def sentences(**metrics: Any) -> str:
    report = REPORT | {"metrics": REPORT["metrics"] | metrics}
    return plain(" ".join(report_context(report)["sentences"]))


def test_the_accuracy_is_told_between_no_model_and_the_best_one():
    said = sentences()
    assert "Of 200 rows that it had not seen" in said
    assert "92.0 % right (with 95 % confidence 88.0 % to 95.0 %)" in said
    assert "most frequent class would be right for 50.0 %" in said
    assert "no model can be right for more than about 94.0 %" in said
    assert "this version has 95.5 %" in said  # (92 - 50) / (94 - 50)
    assert "1.2 % apart" in said


def test_a_champion_that_may_have_seen_the_rows_is_no_measure():
    champion = copy.deepcopy(CHAMPION)
    champion["champion"]["split"] = {"test": 0.1}
    said = sentences(**champion, split={"test": 0.2})
    assert "which says nothing: the champion v1.0.0 was split otherwise, and may have" in said
    assert "a difference of" not in said


def test_rows_that_stand_there_twice_are_counted_where_there_are_any():
    def facts(**data: Any) -> dict[str, str]:
        return dict(report_context(REPORT | {"data": data})["data_facts"])

    assert facts(repeated_rows=1_200)["Like a row before"] == "1,200 rows"
    assert "Like a row before" not in facts(repeated_rows=0) | facts()


def test_without_a_simulator_nothing_is_said_of_the_best_possible():
    said = sentences(best_possible_accuracy=None)
    assert "would be right for 50.0 %." in said
    assert "no model" not in said
    context = report_context(
        REPORT | {"metrics": REPORT["metrics"] | {"best_possible_accuracy": None}}
    )
    assert "The best possible" not in [bar.name for bar, _ in context["beside"]]


@pytest.mark.parametrize(
    ("difference", "interval", "same", "expected"),
    [
        (0.02, [0.01, 0.03], False, "a difference of +2.0 pts (+1.0 pts to +3.0 pts)."),
        (-0.02, [-0.03, -0.01], False, "a difference of -2.0 pts (-3.0 pts to -1.0 pts)."),
        (0.02, [-0.01, 0.05], False, "(-1.0 pts to +5.0 pts), maybe by chance."),
        (0.0, [0.0, 0.0], True, "it answers as the champion v1.0.0 does: it is the same model"),
        (0.02, None, False, "its accuracy is 92.0 % and not 90.0 %."),
    ],
    ids=["better", "worse", "chance", "same", "no-interval"],
)
def test_the_champion_is_told_beside_it(difference, interval, same, expected):
    champion = copy.deepcopy(CHAMPION)
    champion["champion"]["same_scores"] = same
    champion["differences"]["champion"]["accuracy"] = {
        "difference": difference,
        "interval": interval,
    }
    assert expected in sentences(**champion)


def test_the_matrix_shades_shares_of_the_actual_class_and_names_what_is_confused():
    matrix = report_context(REPORT)["matrix"]
    assert matrix.labels == ["Glace", "<b>9</b>", "Volt"]
    label, total, cells = matrix.lines[0]
    assert (label, total) == ("Glace", "100")
    assert [cell.rows for cell in cells] == ["90", "10", "0"]
    assert [cell.share for cell in cells] == ["90", "10", ""]
    assert [cell.shade for cell in cells] == ["heat-right-10", "heat-wrong-4", "heat-none"]
    assert plain(cells[1].words) == "Glace: 10 of 100 rows (10.0 %) named <b>9</b>"
    confusions = report_context(REPORT)["confusions"].rows
    assert [[plain(cell.value) for cell in row] for row in confusions] == [
        ["Glace", "<b>9</b>", "10", "10.0 %"],
        ["<b>9</b>", "Glace", "5", "10.0 %"],
        ["Volt", "<b>9</b>", "1", "2.0 %"],
    ]


def test_of_many_classes_the_most_frequent_are_in_the_matrix():
    labels = [f"class {number}" for number in range(60)]
    counts = [[number if each == number else 0 for each in range(60)] for number in range(60)]
    curves = {"confusion": {"labels": labels, "counts": counts}}
    matrix = report_context(REPORT | {"curves": curves})["matrix"]
    assert matrix.labels == labels[36:]
    assert matrix.left_out == 36


def test_the_page_escapes_names():
    context = report_context(REPORT)
    page = render_to_string(context["report_template"], context)
    assert "<b>9</b>" not in page
    assert page.count("&lt;b&gt;9&lt;/b&gt;") > 3


def test_an_older_report_lacks_what_it_lacks():
    bare = {"kind": "classifier", "metrics": {"rows": 5, "accuracy": 0.4}}
    page = render_to_string("training/classifier_report.html", report_context(bare))
    assert "Of 5 rows that it had not seen" in page
    assert not re.search("confusion|Reliability|champion", page, re.IGNORECASE)


def test_the_terminal_shows_the_same_tables():
    report = REPORT | {"metrics": REPORT["metrics"] | CHAMPION}
    text = plain("\n".join(text_table(table) for table in all_tables(report)))
    assert re.search(r"Accuracy +92.0 %", text)
    assert re.search(r"Accuracy +92.0 % +90.0 % +\+2.0 pts", text)
    assert re.search(r"Macro F1 +0.9140 +0.9000 +\+0.0140", text)
    assert re.search(r"Volt +50 +100.0 % +98.0 % +0.9900", text)


def test_what_to_do_suits_the_kind():
    assert "legitimate" in remedy("fit", "too little memory")
    assert "legitimate" not in remedy("fit", "too little memory", "classifier")
    assert "frauds" not in remedy("split", "no rows", "classifier")
