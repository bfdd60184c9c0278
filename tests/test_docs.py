"""What the pages name exists, and what exists is in the pages."""

import re
import shlex
from pathlib import Path

import pytest
from django.core.management import CommandError, get_commands, load_command_class
from django.urls import get_resolver

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("clients/*/*.md")])
APPS = ("deployments", "scoring", "training")
TEXT = "\n".join(page.read_text() for page in PAGES)


def settings_read() -> set[str]:
    files = [*ROOT.glob("sentinelle/*.py"), ROOT / "gunicorn.conf.py"]
    source = "\n".join(file.read_text() for file in files)
    return set(re.findall(r"env_\w+\(\s*\"([A-Z_]+)\"", source)) - {"DEMO_EXIT"}


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


def own_commands() -> set[str]:
    return {name for name, app in get_commands().items() if app in APPS}


def test_every_setting_is_documented_and_every_documented_setting_is_read() -> None:
    table = set(re.findall(r"`([A-Z][A-Z_]+)`", (ROOT / "docs/operations.md").read_text()))
    example = set(re.findall(r"^([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.M))
    assert settings_read() - table == set()
    assert settings_read() == example


def test_every_command_is_documented_and_every_documented_command_exists() -> None:
    named = set(re.findall(r"manage\.py (\w+)", TEXT))
    assert own_commands() - named == set()
    assert named - set(get_commands()) - {"help"} == set()


def written_commands() -> list[tuple[str, str]]:
    """Page and arguments of every command of ours in a block of code."""
    found = set()
    for page in PAGES:
        text = re.sub(r"\s*\\\n\s*", " ", page.read_text())
        lines = re.findall(r"^ *(?:\S*python3? )?manage\.py (\w[^\n]*)$", text, re.M)
        for line in lines:
            command = re.split(r"\s{2,}| # | > | < |\|", line)[0].strip()
            found.add((str(page.relative_to(ROOT)), command))
    return sorted(found)


def test_every_command_that_is_written_takes_its_options() -> None:
    faults = {}
    for page, written in written_commands():
        name, *arguments = shlex.split(written)
        if not arguments or name == "help":
            continue
        command = load_command_class(get_commands()[name], name)
        try:
            command.create_parser("manage.py", name).parse_args(arguments)
        except (CommandError, SystemExit) as error:
            faults[f"{page}: {written}"] = str(error)
    assert len(written_commands()) > 50
    assert faults == {}


def test_every_make_target_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`make (\w+)", TEXT)) - targets == set()


def test_every_address_of_the_api_is_documented() -> None:
    page = (ROOT / "docs/api.md").read_text()
    patterns = [
        url.pattern
        for urls in ("scoring.urls", "training.urls")
        for url in get_resolver(urls).url_patterns
    ]
    names = {"<uuid:run_id>": "{id}", "<slug:name>": "NAME"}
    routes = [re.sub("<[^>]+>", lambda part: names[part[0]], str(each)) for each in patterns]
    assert len(routes) > 5
    assert [route for route in routes if f"/{route}" not in page] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text())
    local = [(link, anchor) for link, anchor in links if not link.startswith("http")]
    assert [link for link, _ in local if not (page.parent / link).exists()] == []
    anchored = [(page.parent / link if link else page, anchor) for link, anchor in local if anchor]
    assert [(str(to), anchor) for to, anchor in anchored if anchor not in anchors(to)] == []


def test_every_error_code_is_documented() -> None:
    from sentinelle.problems import STATUS_OF_CODE

    page = (ROOT / "docs/api.md").read_text()
    assert [code for code in STATUS_OF_CODE if code not in page] == []
