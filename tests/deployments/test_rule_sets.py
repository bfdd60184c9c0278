"""Rule sets: added, promoted, rolled back."""

from functools import partial

import pytest

from deployments import selectors, services
from deployments.models import RuleSet, RuleSetEvent
from engine.errors import InvalidRuleSet, NothingToRollBack, RegistryError, RegistryMoved
from engine.rules import default_rules_text

CAP_500 = default_rules_text().replace("amount > 300.0", "amount > 500.0")


@pytest.fixture
def cap_500(fraud) -> RuleSet:
    return services.rule_set_create(name="cap-500", source=CAP_500, created_by="ana")


@pytest.fixture
def promote(fraud):
    return partial(services.rule_set_promote, model=fraud, actor="ana", reason="because")


@pytest.fixture
def rollback(fraud):
    return partial(services.rule_set_rollback, model=fraud, actor="ana", reason="because")


def serving() -> str:
    return selectors.live_pointer("fraud").rule_set.name


def test_the_default_serves_from_the_beginning(fraud):
    rule_set = selectors.live_pointer("fraud").rule_set
    assert (rule_set.name, rule_set.source) == ("default", default_rules_text())
    assert str(RuleSetEvent.objects.get()) == "Promotion none → default"


def test_rollbacks_go_back_one_by_one(promote, rollback, cap_500):
    promote(rule_set=cap_500)
    promote(rule_set=selectors.rule_set_by_name("none"))
    rollback()
    assert serving() == "cap-500"
    rollback()
    assert serving() == "default"
    with pytest.raises(NothingToRollBack):
        rollback()


def test_what_serves_already_is_refused(promote):
    with pytest.raises(RegistryError, match="“default” already"):
        promote(rule_set=selectors.rule_set_by_name("default"))


def test_a_rollback_of_something_else_than_was_seen(promote, rollback, cap_500):
    promote(rule_set=cap_500)
    with pytest.raises(RegistryMoved, match="“cap-500” serves"):
        rollback(seen_rule_set="default")
    rollback(seen_rule_set="cap-500")
    assert serving() == "default"


def test_rules_that_do_not_compile_are_not_registered(fraud):
    with pytest.raises(InvalidRuleSet, match="amuont"):
        services.rule_set_create(
            name="wrong", source=CAP_500.replace("amount > 5", "amuont > 5"), created_by=""
        )
    assert not RuleSet.objects.filter(name="wrong").exists()


@pytest.mark.parametrize("name", ["default", "Cap", "cap 500", "", "-x", "a" * 64, "cap\n"])
def test_a_name_that_is_taken_or_not_a_name(fraud, name):
    with pytest.raises(RegistryError) as raised:
        services.rule_set_create(name=name, source="", created_by="")
    assert raised.value.errors[0].field == "name"
