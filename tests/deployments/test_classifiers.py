"""The registry of classifiers: definitions, versions without rules, gates, promotion, rollback."""

import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse

from deployments import comparison, selectors, services
from deployments.gates import Verdict, gate
from deployments.models import ModelVersion, RegisteredModel, RuleSet
from engine.errors import InvalidBundle, InvalidDefinition, NotRegistered, RegistryError
from tests import bundles, classifiers
from tests.engine.classifiers import CHURN, SPONSOR


@pytest.fixture
def sponsor(db, artifacts_dir) -> RegisteredModel:
    """The model “sponsor”, without versions."""
    bundles.seed_registry()
    return classifiers.register_model()


def champion(model: str = "sponsor") -> str | None:
    version = selectors.live_pointer(model).version
    return version.version if version else None


# --- definitions ---


def test_a_definition_registers_a_model(sponsor):
    assert (sponsor.name, sponsor.kind, sponsor.definition) == ("sponsor", "classifier", SPONSOR)
    assert sponsor.description == "Which sponsor to show at this moment of a match"
    assert sponsor.defined_by == "test"


def test_registering_the_same_again_changes_nothing(sponsor):
    again = services.model_register(source=SPONSOR, by="another")
    assert (again, again.defined_by) == (sponsor, "test")
    assert again.defined_at == sponsor.defined_at


def test_a_changed_definition_takes_the_place_of_the_one_before(sponsor):
    changed = SPONSOR.replace("Which sponsor", "Whose banner")
    model = services.model_register(source=changed, by="ana")
    assert model == sponsor
    assert (model.definition, model.defined_by) == (changed, "ana")
    assert model.description.startswith("Whose banner")
    assert model.defined_at > sponsor.defined_at


def test_a_definition_that_is_not_valid_registers_nothing(sponsor):
    with pytest.raises(InvalidDefinition, match=r"inputs\.age: minimum must be below maximum"):
        services.model_register(source=CHURN.replace("minimum = 18", "minimum = 120"), by="ana")
    assert not RegisteredModel.objects.filter(name="churn").exists()


def test_the_name_of_a_model_of_another_kind_is_refused(sponsor):
    with pytest.raises(RegistryError, match="“fraud” is the name of a model of another kind"):
        services.model_register(source=CHURN.replace('"churn"', '"fraud"'), by="ana")
    assert RegisteredModel.objects.get(name="fraud").kind == "fraud"


# --- versions ---


def test_a_version_of_a_classifier_has_neither_rules_nor_thresholds(sponsor):
    version = classifiers.register()
    assert (version.rule_set, version.thresholds) == (None, {})
    assert version.size_bytes > 1_000


def test_the_bundle_of_another_kind_is_refused(sponsor):
    rules = RuleSet.objects.get(name="default")
    location, digest = bundles.write("1.0.0", rules_sha256=rules.sha256)
    RegisteredModel.objects.filter(name="fraud").update(kind="classifier")
    with pytest.raises(InvalidBundle, match="is of the kind fraud, not classifier"):
        services.version_register(
            model=RegisteredModel.objects.get(name="fraud"),
            version="1.0.0",
            location=location,
            manifest_sha256=digest,
            metrics={},
            deployable=True,
            training_run_id=None,
            rule_set=None,
            created_by="test",
        )


def test_it_is_promoted_and_rolled_back_without_rules(sponsor, capsys):
    classifiers.register("1.0.0")
    classifiers.register("1.1.0", seed=1)
    assert (champion(), selectors.live_pointer("sponsor").rule_set) == (None, None)
    call_command("promote", "sponsor", "1.0.0")
    call_command("promote", "sponsor", "1.1.0", yes=True)
    assert champion() == "1.1.0"
    call_command("rollback", "sponsor")
    assert champion() == "1.0.0"
    told = capsys.readouterr().out.splitlines()
    assert "sponsor is served by v1.1.0 (before: v1.0.0)." in told
    assert told[-1] == "sponsor is served by v1.0.0 again (before: v1.1.0)."


def test_rules_are_refused(sponsor):
    classifiers.register()
    rules = RuleSet.objects.get(name="none")
    who = {"model": sponsor, "actor": "ana", "reason": "try"}
    with pytest.raises(RegistryError, match="sponsor is a classifier: it is served without rules"):
        services.promote(**who, version="1.0.0", rule_set=rules)
    with pytest.raises(RegistryError, match="served without rules"):
        services.rule_set_promote(**who, rule_set=rules)
    with pytest.raises(CommandError, match="served without rules"):
        call_command("promote", "sponsor", "1.0.0", rules="none")
    assert champion() is None


def test_what_serves_is_told_of_every_model(sponsor):
    classifiers.register()
    classifiers.promote()
    told = {each.model.name: each for each in selectors.serving()}
    assert str(told["sponsor"].version) == "sponsor v1.0.0"
    assert told["sponsor"].rule_set is None
    assert told["fraud"].rule_set.name == "default"


def test_a_model_that_is_not_there_is_told_how_to_be_registered(sponsor):
    with pytest.raises(NotRegistered, match=r"manage\.py register_model FILE\.toml"):
        selectors.model_by_name("churn")


def test_the_pages_of_versions_take_both_kinds(sponsor, admin_client):
    classifiers.register("1.0.0")
    classifiers.register("1.1.0", seed=1, metrics=classifiers.compared())
    bundles.register("1.0.0")
    classifiers.promote("1.0.0")
    page = admin_client.get(reverse("admin:deployments_modelversion_changelist")).content.decode()
    assert "<strong>sponsor v1.1.0</strong>" in page
    version = ModelVersion.objects.get(model=sponsor, version="1.1.0")
    shown = admin_client.get(
        reverse("admin:deployments_modelversion_change", args=[version.pk])
    ).content.decode()
    assert "Better than the champion v1.0.0" in shown
    address = reverse("admin:deployments_modelversion_promote", args=[version.pk])
    form = admin_client.get(address).content.decode()
    assert "Balanced accuracy" in form
    assert "rule set" not in form
    asked = {"reason": "better", "seen_champion": "1.0.0"}
    assert admin_client.post(address, asked).status_code == 302
    assert champion() == "1.1.0"
    rules = admin_client.get(reverse("admin:deployments_ruleset_changelist"))
    assert "What serves sponsor" not in rules.content.decode()
    row = RuleSet.objects.get(name="none")
    page = admin_client.get(reverse("admin:deployments_ruleset_promote", args=[row.pk]))
    assert "sponsor" not in page.content.decode()


# --- gates ---


class Version:
    deployable = True
    thresholds: dict[str, float] = {}

    def __init__(self, version, metrics=None):
        self.version, self.metrics = version, metrics or classifiers.METRICS


def found(metrics, version="1.1.0"):
    return gate(Version(version, metrics), Version("1.0.0"))


@pytest.mark.parametrize(
    ("difference", "interval", "verdict"),
    [
        (0.05, (0.02, 0.08), Verdict.BETTER),
        (-0.05, (-0.08, -0.02), Verdict.WORSE),
        (0.01, (-0.02, 0.04), Verdict.TOO_CLOSE),
    ],
    ids=["better", "worse", "close"],
)
def test_the_accuracies_on_the_same_rows_decide(difference, interval, verdict):
    gate = found(classifiers.compared(difference, interval))
    assert gate.verdict == verdict
    points = 100 * difference
    assert gate.reason.startswith(
        f"On the same 2,000 rows its accuracy is {80 + points:.2f} % and that of v1.0.0 80.00 %: "
        f"{points:+.2f} pts, and with 95 % confidence between "
    )


def test_the_list_shows_the_difference_on_the_same_rows(sponsor, admin_client):
    classifiers.register("1.0.0")
    classifiers.promote()
    # On its own test part the champion reached 87.1 %, on that of v1.1.0 80 %.
    classifiers.register("1.1.0", seed=1, metrics=classifiers.compared(0.05))
    page = admin_client.get(reverse("admin:deployments_modelversion_changelist")).content.decode()
    assert "+5.00 pts" in page


def test_the_older_one_may_serve_again():
    older = gate(Version("1.0.0"), Version("1.1.0", classifiers.compared(0.05, (0.02, 0.08))))
    assert older.verdict == Verdict.WORSE
    assert "-5.00 pts, and with 95 % confidence between -8.00 pts and -2.00 pts" in older.reason


def test_another_split_is_not_comparable():
    gate = found(classifiers.compared(split={"test": 0.3}))
    assert gate.verdict == Verdict.NOT_COMPARABLE
    assert "30% for the test beside 20% for the test" in gate.reason


def test_the_same_probabilities_are_the_same_model():
    gate = found(classifiers.compared(0.0, (0.0, 0.0), same_scores=True))
    assert gate.verdict == Verdict.SAME
    assert "each of the same 2,000 rows the same probabilities" in gate.reason


def test_a_table_has_the_measures_of_the_kind():
    rows = {
        row.label: row for row in comparison.compare(classifiers.compared(), classifiers.METRICS)
    }
    assert rows["Accuracy"].difference.verdict == "worse"
    assert rows["Log loss"].candidate == "0.520"
    assert "Average precision" not in rows
    assert comparison.test_set(classifiers.METRICS) == "2,000 rows"
