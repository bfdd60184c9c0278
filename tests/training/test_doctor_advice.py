"""Every command that the doctor, or an error of Google, advises takes the words it is given."""

import re
import shlex
from pathlib import Path

from django.core.management import CommandError, get_commands, load_command_class

from deployments.gcp.errors import FAULTS, advice_of
from training.doctor.explain import KNOWN

DOCTOR = Path(__file__).resolve().parents[2] / "training" / "doctor"
END = re.compile(r"[;,)]|\. |\.$|: |$| \(| prints| looks| makes| itself| where ")


def advised() -> set[str]:
    texts = [known.advice for known in KNOWN]
    for fault in FAULTS:
        texts += [advice_of(fault, "", "shop", "europe-west1", name) for name in ("", "engine")]
    for file in ("here", "cloud"):
        source = (DOCTOR / f"{file}.py").read_text()
        # Pieces of one text on several lines; a field is a word.
        joined = re.sub(r'"\s*\n\s*f?"', "", source)
        texts += [re.sub(r"\{[^}]*\}", "1", line) for line in joined.splitlines()]
    found = set()
    for text in texts:
        for written in re.findall(
            r"manage\.py ((?:(?!manage\.py)[^`\"\n])*)", re.sub(r"[“”]", "'", text)
        ):
            found.add(written[: END.search(written).start()].strip())
    return found


def test_every_advised_command_takes_its_words() -> None:
    faults = {}
    for written in advised():
        name, *arguments = shlex.split(written)
        command = load_command_class(get_commands()[name], name)
        if not arguments or arguments[-1] == "--help":
            continue  # only named, or asked what it takes
        try:
            command.create_parser("manage.py", name).parse_args(
                [word.replace("SECONDS", "60") for word in arguments]
            )
        except (CommandError, SystemExit) as error:
            faults[written] = str(error)
    assert len(advised()) > 30
    assert faults == {}
