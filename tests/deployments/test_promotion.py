"""Promotion and rollback of versions, through the services that everything else calls."""

from functools import partial

import pytest

from deployments import selectors, services
from deployments.models import PromotionEvent, RuleSetEvent
from engine.errors import (
    InvalidBundle,
    NothingToRollBack,
    NotRegistered,
    RegistryError,
    RegistryMoved,
)
from tests import bundles


@pytest.fixture
def promote(fraud):
    return partial(services.promote, model=fraud, actor="ana", reason="better")


@pytest.fixture
def rollback(fraud):
    return partial(services.rollback, model=fraud, actor="ana", reason="worse")


def champion() -> str | None:
    version = selectors.live_pointer("fraud").version
    return version.version if version else None


def serving_rules() -> str:
    return selectors.live_pointer("fraud").rule_set.name


def test_nothing_serves_before_the_first_promotion(fraud):
    assert champion() is None
    assert serving_rules() == "default"


def test_live_pointer_takes_one_query(promote, django_assert_num_queries):
    bundles.register("1.0.0")
    promote(version="1.0.0")
    with django_assert_num_queries(1):
        pointer = selectors.live_pointer("fraud")
        assert str(pointer.version) == "fraud v1.0.0"
        assert pointer.version.manifest_sha256
        assert pointer.rule_set.source


def test_a_promotion_moves_the_champion_and_leaves_an_event(promote, admin_user):
    bundles.register("1.0.0")
    bundles.register("1.1.0")
    promote(version="1.0.0")
    promote(version="v1.1.0", user=admin_user, reason="  catches more  ")
    assert champion() == "1.1.0"
    event = PromotionEvent.objects.first()
    assert str(event) == "Promotion v1.0.0 → v1.1.0"
    assert (event.actor, event.user, event.reason) == ("ana", admin_user, "catches more")


def test_each_rollback_goes_further_back_until_nothing_is_left(promote, rollback):
    for number in ("1.0.0", "1.1.0", "1.2.0"):
        bundles.register(number)
        promote(version=number)
    rollback()
    assert champion() == "1.1.0"
    rollback()
    assert champion() == "1.0.0"
    with pytest.raises(NothingToRollBack, match=r"v1\.0\.0 is the first champion"):
        rollback()
    assert champion() == "1.0.0"


def test_a_rollback_after_a_new_promotion_skips_what_was_undone(promote, rollback):
    for number in ("1.0.0", "1.1.0", "1.2.0"):
        bundles.register(number)
    promote(version="1.0.0")
    promote(version="1.1.0")
    rollback()
    promote(version="1.2.0")
    rollback()
    assert champion() == "1.0.0"
    with pytest.raises(NothingToRollBack):
        rollback()


def test_a_rollback_names_the_promotion_that_it_undoes(promote, rollback):
    bundles.register("1.0.0")
    bundles.register("1.1.0")
    promote(version="1.0.0")
    promoted = promote(version="1.1.0")
    assert rollback().undoes == promoted


def test_without_a_champion_there_is_nothing_to_roll_back(rollback):
    with pytest.raises(NothingToRollBack, match="no champion"):
        rollback()


class TestRefusals:
    def test_unknown_version_names_the_known_ones(self, promote):
        bundles.register("1.0.0")
        with pytest.raises(NotRegistered, match=r"v2\.0\.0 is not registered.*v1\.0\.0"):
            promote(version="2.0.0")

    def test_version_of_a_sample(self, promote):
        bundles.register("1.0.0", deployable=False)
        with pytest.raises(RegistryError, match="trained on a sample"):
            promote(version="1.0.0")

    def test_the_champion_itself(self, promote):
        bundles.register("1.0.0")
        promote(version="1.0.0")
        with pytest.raises(RegistryError, match="champion of fraud already"):
            promote(version="1.0.0")

    @pytest.mark.parametrize("reason", ["", "  \n"])
    def test_no_reason(self, promote, rollback, reason):
        bundles.register("1.0.0")
        for move in (partial(promote, version="1.0.0"), rollback):
            with pytest.raises(RegistryError, match="Say why") as raised:
                move(reason=reason)
            assert raised.value.errors[0].field == "reason"

    @pytest.mark.parametrize("file", ["supervised.treelite", "thresholds.json", "manifest.json"])
    def test_a_file_that_was_changed(self, promote, artifacts_dir, file):
        bundles.register("1.0.0")
        path = artifacts_dir / "fraud" / "v1.0.0" / file
        path.write_bytes(path.read_bytes() + b" ")
        with pytest.raises(InvalidBundle):
            promote(version="1.0.0")
        assert champion() is None
        assert not PromotionEvent.objects.exists()

    def test_a_rollback_to_a_bundle_that_is_gone(self, promote, rollback, artifacts_dir):
        for number in ("1.0.0", "1.1.0"):
            bundles.register(number)
            promote(version=number)
        (artifacts_dir / "fraud" / "v1.0.0" / "manifest.json").unlink()
        with pytest.raises(InvalidBundle, match="no manifest"):
            rollback()
        assert champion() == "1.1.0"

    def test_a_champion_that_moved_since_the_caller_looked(self, promote, rollback):
        for number in ("1.0.0", "1.1.0", "1.2.0"):
            bundles.register(number)
        promote(version="1.0.0", seen_champion="")
        promote(version="1.1.0", seen_champion="1.0.0")
        for move in (partial(promote, version="1.2.0"), rollback):
            with pytest.raises(RegistryMoved, match=r"v1\.1\.0 serves now"):
                move(seen_champion="1.0.0")
        assert champion() == "1.1.0"


class TestRegistration:
    def test_it_reads_size_and_thresholds_from_the_bundle(self, fraud, artifacts_dir):
        version = bundles.register("1.0.0", review=0.4, block=0.9)
        folder = artifacts_dir / "fraud" / "v1.0.0"
        files = [path for path in folder.iterdir() if path.name != "manifest.json"]
        assert version.size_bytes == sum(path.stat().st_size for path in files)
        assert version.thresholds == {"review": 0.4, "block": 0.9}

    def test_a_version_twice(self, fraud):
        location, digest = bundles.write(
            "1.0.0", rules_sha256=selectors.rule_set_by_name("none").sha256
        )
        register = partial(
            services.version_register,
            model=fraud,
            version="1.0.0",
            location=location,
            manifest_sha256=digest,
            metrics={},
            deployable=True,
            training_run_id=None,
            rule_set=selectors.rule_set_by_name("none"),
            created_by="",
        )
        register()
        with pytest.raises(RegistryError, match="already exists"):
            register()
        with pytest.raises(InvalidBundle, match=r"is fraud v1\.0\.0, not fraud v1\.0\.1"):
            register(version="1.0.1")
        with pytest.raises(InvalidBundle, match="not tuned with"):
            register(rule_set=selectors.rule_set_by_name("default"))
        with pytest.raises(InvalidBundle, match="not the one that was registered"):
            register(manifest_sha256="0" * 64)

    @pytest.mark.parametrize("number", ["1.0", "v1.0.0", "1.0.0.0", "01.0.0", "1.0.0+x", "1.0.0\n"])
    def test_a_number_that_is_not_semver(self, fraud, number):
        with pytest.raises(RegistryError, match="not a semantic version"):
            bundles.register(number)


class TestRulesInTheSameStep:
    def test_they_move_with_the_promotion_and_back_with_its_rollback(self, promote, rollback):
        none = selectors.rule_set_by_name("none")
        bundles.register("1.0.0")
        bundles.register("1.1.0", rules="none")
        promote(version="1.0.0")
        promote(version="1.1.0", rule_set=none)
        assert (champion(), serving_rules()) == ("1.1.0", "none")
        rollback()
        assert (champion(), serving_rules()) == ("1.0.0", "default")

    def test_rules_that_serve_already_leave_no_event(self, promote, fraud):
        before = RuleSetEvent.objects.count()
        bundles.register("1.0.0")
        promote(version="1.0.0", rule_set=selectors.rule_set_by_name("default"))
        assert RuleSetEvent.objects.count() == before

    def test_rules_that_were_corrected_since_stay(self, promote, rollback, fraud):
        bundles.register("1.0.0")
        bundles.register("1.1.0")
        promote(version="1.0.0")
        promote(version="1.1.0", rule_set=selectors.rule_set_by_name("none"))
        corrected = services.rule_set_create(name="corrected", source="", created_by="ana")
        services.rule_set_promote(model=fraud, rule_set=corrected, actor="ana", reason="fix")
        rollback()
        assert (champion(), serving_rules()) == ("1.0.0", "corrected")

    def test_a_refused_promotion_moves_no_rules(self, promote):
        none = selectors.rule_set_by_name("none")
        bundles.register("1.0.0")
        promote(version="1.0.0")
        with pytest.raises(RegistryError):
            promote(version="1.0.0", rule_set=none)
        assert serving_rules() == "default"
