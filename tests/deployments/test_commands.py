"""The commands as a person meets them: what they print and how they end."""

from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from deployments import selectors
from deployments.models import PromotionEvent
from engine.rules import default_rules_text
from tests import bundles


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out, stderr=StringIO())
    return out.getvalue()


def refused(*arguments: str) -> str:
    with pytest.raises(CommandError) as raised:
        run(*arguments)
    assert raised.value.returncode == 1
    return str(raised.value)


def test_promote_and_roll_back(fraud):
    bundles.register("1.0.0")
    bundles.register("1.1.0")
    assert "served by v1.0.0 (before: nothing)" in run("promote", "fraud", "1.0.0")
    assert "(before: v1.0.0)" in run(
        "promote", "fraud", "v1.1.0", "--yes", "--reason", "more recall"
    )
    event = PromotionEvent.objects.first()
    assert event.reason == "more recall"
    assert event.actor
    assert "served by v1.0.0 again" in run("rollback", "fraud")
    assert "no earlier version" in refused("rollback", "fraud")
    assert "champion of fraud already" in refused("promote", "fraud", "1.0.0")


def test_promote_says_when_other_rules_serve(fraud):
    bundles.register("1.0.0", rules="none")
    assert "tuned with “none”" in run("promote", "fraud", "1.0.0")


def test_promote_with_rules(fraud):
    bundles.register("1.0.0", rules="none")
    assert "tuned with" not in run("promote", "fraud", "1.0.0", "--rules", "none")
    assert selectors.live_pointer("fraud").rule_set.name == "none"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["promote", "fraud", "9.9.9"], "v9.9.9 is not registered"),
        (["promote", "card", "1.0.0"], "There is no model “card”. Registered models: fraud."),
        (["promote", "fraud", "1.0.0", "--rules", "x"], "There is no rule set “x”"),
        (["rollback", "fraud"], "nothing to roll back"),
        (["rules", "promote", "x"], "There is no rule set “x”"),
        (["rules", "show", "x"], "There is no rule set “x”"),
        (["rules", "rollback"], "No earlier rule set"),
        (["rules", "check", "/nowhere.toml"], "can't be read: No such file"),
    ],
)
def test_refusals_are_one_line(fraud, arguments, said):
    message = refused(*arguments)
    assert said in message
    assert "\n" not in message


def test_rules_from_a_file_to_serving_and_back(fraud, tmp_path):
    assert run("rules", "show", "default") == default_rules_text()
    file = tmp_path / "rules.toml"
    file.write_text(default_rules_text().replace("amount > 300.0", "amount > 500.0"))
    assert run("rules", "check", str(file)).startswith("15 rules compile.")
    run("rules", "add", "cap-500", str(file))
    assert "* default" in run("rules", "list")
    run("rules", "promote", "cap-500", "--reason", "raised")
    assert "* cap-500" in run("rules", "list")
    run("rules", "rollback")
    assert "* default" in run("rules", "list")
    assert "already exists" in refused("rules", "add", "cap-500", str(file))


def test_rules_check_names_the_fault(fraud, tmp_path):
    file = tmp_path / "rules.toml"
    file.write_text(default_rules_text().replace("amount > 300.0", "amuont > 300.0"))
    assert "R1" in refused("rules", "check", str(file))
    file.write_bytes(b"\xff\xfe")
    assert "is not UTF-8" in refused("rules", "check", str(file))


def test_a_key_alone_goes_to_standard_output(fraud):
    plain_key = run("create_api_key", "backend", "--scope", "score", "read").removesuffix("\n")
    assert selectors.api_key_find(plain_key).scopes == ["score", "read"]
    assert selectors.api_key_find(run("create_api_key", "probe").strip()).scopes == ["score"]


def test_if_none_makes_the_first_key_only(fraud):
    assert run("create_api_key", "first key", "--if-none").startswith("sk_")
    assert run("create_api_key", "first key", "--if-none") == ""


@pytest.mark.parametrize("command", ["promote", "rollback", "create_api_key", "rules"])
def test_help_has_examples(command, capsys):
    with pytest.raises(SystemExit) as ended:
        call_command(command, "--help")
    assert ended.value.code == 0
    assert f"\n  manage.py {command} " in capsys.readouterr().out
