"""A mapping proposed for a file, from the names of its columns and what their values look like.

Each line says how sure it is: `sure` (a usual name with fitting values), `likely` (part of a name,
or values alone), or `decide` (a person has to). A required column that nothing was found for is
left as a comment, so that an import by the proposal refuses and names it.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from training.pipeline.mapping import OF_LABEL
from training.pipeline.profile import Profile
from training.pipeline.schema import COLUMNS, MOST_ATTRIBUTES

Sure = Literal["sure", "likely", "decide"]


class Choice(msgspec.Struct, frozen=True):
    """A line of the mapping; `source` is TOML, None where nothing was found."""

    target: str
    source: str | None
    sure: Sure
    why: str
    columns: tuple[str, ...] = ()


class Proposal(msgspec.Struct, frozen=True):
    """A mapping: its columns, its attributes, and why each other column is ignored."""

    columns: tuple[Choice, ...]
    attributes: tuple[Choice, ...]
    ignored: dict[str, str]

    @property
    def complete(self) -> bool:
        """An import by it is possible."""
        return all(choice.source is not None for choice in self.columns)

    @property
    def decisions(self) -> tuple[Choice, ...]:
        """What a person has to look at before an import."""
        return tuple(choice for choice in self.columns if choice.sure == "decide")

    def without(self, leaks: Mapping[str, str]) -> "Proposal":
        """The same with attributes that come from a column in `leaks` ignored, for that reason."""
        kept = tuple(a for a in self.attributes if not leaks.keys() & set(a.columns))
        left = (name for a in self.attributes for name in a.columns if name in leaks)
        told = {name: f"suspected leak: {leaks[name]}" for name in left}
        return Proposal(self.columns, kept, self.ignored | told)


class _Wanted(NamedTuple):
    """Names that a canonical column usually has, and what its values must be."""

    names: str
    fits: Callable[[Profile], bool]


def _is_label(profile: Profile) -> bool:
    return profile.kind != "empty" and profile.distinct <= 2


def _is_number(profile: Profile) -> bool:
    return profile.low is not None


def _is_moment(profile: Profile) -> bool:
    counted = profile.low is not None and _key(profile.name) in _STEPS
    return profile.kind in ("time", "epoch") or counted


def _is_name(profile: Profile) -> bool:
    return profile.kind not in ("empty", "time") and profile.longest <= 57


def _is_short(profile: Profile) -> bool:
    return profile.kind != "empty" and profile.longest <= 32 and profile.distinct <= 1_000


def _is_letters(count: int) -> Callable[[Profile], bool]:
    return lambda p: (
        bool(p.values) and all(re.fullmatch(f"[A-Za-z]{{{count}}}", v) for v in p.values)
    )


def _is_among(*values: str) -> Callable[[Profile], bool]:
    return lambda p: bool(p.values) and all(value.upper() in values for value in p.values)


_CARDS = "ccnum cardnumber cardnum cardid card pan"
_CUSTOMERS = "customerid customer clientid client userid user cardholder"
_MERCHANTS = "merchantid merchantname merchant shopid shop storeid store"
_TERMINALS = "terminalid terminal posid"
_STEPS = {
    "step": "hours", "steps": "hours", "hour": "hours", "hours": "hours", "day": "days",
    "days": "days", "txtimedays": "days", "minute": "minutes", "minutes": "minutes",
    "transactiondt": "seconds", "txtimeseconds": "seconds", "time": "seconds",
    "seconds": "seconds",
}  # fmt: skip
_WANTED = {
    "is_fraud": _Wanted(
        "isfraud fraud txfraud fraudlabel isfraudulent fraudulent fraudflag fraudbool label class "
        "target", _is_label,
    ),
    "label_known_at": _Wanted(
        "labelknownat fraudreportedat reportedat fraudreportdate reportdate chargebackdate "
        "chargebackat confirmedat labeldate", lambda p: p.kind == "time",
    ),
    "fraud_kind": _Wanted(
        "fraudkind fraudtype txfraudscenario fraudscenario fraudcategory", _is_short
    ),
    "created_at": _Wanted(
        "createdat transdatetranstime txdatetime transactiondatetime transactiontimestamp datetime "
        "timestamp eventtime transactiontime transactiondate date time transactiondt step unixtime "
        "epoch txtimeseconds", _is_moment,
    ),
    "transaction_id": _Wanted(
        "transactionid transnum transid transactionnumber transactionno txid txnid tranid "
        "paymentid reference uuid id", _is_name,
    ),
    "amount": _Wanted(
        "amount amt transactionamount transactionamt txamount paymentamount amountusd value sum "
        "total", _is_number,
    ),
    "currency": _Wanted("currency currencycode ccy", _is_letters(3)),
    "source_wallet_id": _Wanted(
        "sourcewalletid nameorig sourceaccount source senderid senderaccount sender fromaccount "
        f"from originator payerid payer debtor {_CARDS} {_CUSTOMERS} accountid account card1",
        _is_name,
    ),
    "destination_wallet_id": _Wanted(
        "destinationwalletid namedest destinationaccount destination dest receiverid "
        "receiveraccount receiver recipientid recipient beneficiaryid beneficiary toaccount to "
        f"payeeid payee creditor {_MERCHANTS} {_TERMINALS} counterparty", _is_name,
    ),
    "transaction_type": _Wanted(
        "transactiontype type txtype paymenttype category merchantcategory mcc productcd channel",
        _is_short,
    ),
    "direction": _Wanted("direction", _is_among("OUTGOING", "INCOMING")),
    "country": _Wanted("country countrycode", _is_letters(2)),
    "city": _Wanted("city", _is_name),
    "initiator_user_id": _Wanted("initiatoruserid initiatorid", _is_name),
    "status": _Wanted("status transactionstatus", _is_among("SUCCESS", "FAILED", "CANCELED")),
    "source_balance": _Wanted(
        "sourcebalance oldbalanceorg oldbalanceorig balancebefore", _is_number
    ),
    "source_wallet_status": _Wanted("sourcewalletstatus", _is_short),
    "destination_wallet_status": _Wanted("destinationwalletstatus", _is_short),
    "user_status": _Wanted("userstatus", _is_short),
    "user_risk_level": _Wanted("userrisklevel", _is_short),
    "account_age_minutes": _Wanted("accountageminutes", _is_number),
}  # fmt: skip
# What is taken when no column is found. Without a label, a time, an amount and a source there is
# nothing to train on, so those have to be given.
_INSTEAD: dict[str, tuple[str, Sure, str]] = {
    "transaction_id": ('{ row_number = "row-" }', "likely", "made from the number of the row"),
    "currency": ('{ constant = "XXX" }', "decide", "no such column; XXX is ISO 4217 for none"),
    "destination_wallet_id": ('{ constant = "unknown" }', "decide", "no such column"),
    "transaction_type": ('{ constant = "PAYMENT" }', "decide", "no such column"),
}
_POSITIVE = ("1", "true", "yes", "y", "t", "fraud", "fraudulent", "bad", "chargeback", "stolen")
_NOUNS = {
    "card-": _CARDS,
    "customer-": _CUSTOMERS,
    "merchant-": _MERCHANTS,
    "terminal-": _TERMINALS,
}
_PERSONAL_NAMES = (
    "first last firstname lastname name fullname surname gender sex street address dob birthdate "
    "dateofbirth birthday email phone ssn zip zipcode postcode job occupation ip ipaddress"
)
_PERSONAL = frozenset(_PERSONAL_NAMES.split())
_AFTERWARDS = re.compile(
    "newbalance|after|flag|chargeback|dispute|refund|investigat|review|decision|blocked|resolved|"
    "closed|fraud"
)
_NUMBERED = ("", "unnamed0", "index", "indexlevel0", "rowid", "rownumber")


def propose(profiles: Sequence[Profile]) -> Proposal:
    """Propose a mapping for a file with these columns."""
    found = _matched(profiles)
    used = {profile.name for profile, _ in found.values()}
    columns = []
    for target in (*(column.name for column in COLUMNS), "label_known_at"):
        required = target in {column.name for column in COLUMNS if column.required}
        if target in found:
            columns.append(_chosen(target, *found[target], found))
        elif target in _INSTEAD:
            source, sure, why = _INSTEAD[target]
            columns.append(Choice(target, source, sure, why))
        elif required:
            columns.append(Choice(target, None, "decide", "no column looks like it"))
    attributes, ignored = _others([p for p in profiles if p.name not in used])
    return Proposal(tuple(columns), attributes, ignored)


def leak_by_name(name: str) -> str | None:
    """Why a column that is not the label is suspected to tell it, None when it is not."""
    if _AFTERWARDS.search(_key(name)):
        return "by its name, known only after the transaction"
    return None


def is_row_number(name: str) -> bool:
    """Whether a column by its name holds the number of the row, as pandas writes it."""
    return _key(name) in _NUMBERED


def _key(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def _matched(profiles: Sequence[Profile]) -> dict[str, tuple[Profile, Sure]]:
    """The column of each target: whole names first, then parts of names."""
    found: dict[str, tuple[Profile, Sure]] = {}
    free = {p.name: p for p in profiles if not is_row_number(p.name)}
    for target, wanted in _WANTED.items():
        fitting = (p for name in wanted.names.split() for p in free.values()
                   if _key(p.name) == name and wanted.fits(p))  # fmt: skip
        if (match := next(fitting, None)) is not None:
            found[target] = (free.pop(match.name), "sure")
    for target, wanted in _WANTED.items():
        fitting = (p for name in wanted.names.split() for p in free.values()
                   if _has_part(p, target, name) and wanted.fits(p))  # fmt: skip
        if target not in found and (match := next(fitting, None)) is not None:
            found[target] = (free.pop(match.name), "likely")
    return found


def _has_part(profile: Profile, target: str, name: str) -> bool:
    usable = target in OF_LABEL or _reason_to_ignore(profile) is None
    return len(name) >= 4 and name in _key(profile.name) and usable


def _chosen(
    target: str, profile: Profile, sure: Sure, found: Mapping[str, tuple[Profile, Sure]]
) -> Choice:
    keys = [f"column = {_text(profile.name)}"]
    why = "its name and its values" if sure == "sure" else "part of its name, and its values"
    if target in ("created_at", "label_known_at"):
        more, sure, why = _read_as_time(profile, sure, why)
        keys += more
    elif target == "is_fraud" and profile.kind != "boolean":
        more, sure, why = _read_as_label(profile, why)
        keys += more
    elif target == "transaction_id" and not profile.unique:
        sure, why = "decide", "some values repeat or lack; each row needs its own"
    elif target.endswith("_wallet_id"):
        keys += _prefix(profile, found)
    return Choice(target, f"{{ {', '.join(keys)} }}", sure, why, (profile.name,))


def _read_as_time(profile: Profile, sure: Sure, why: str) -> tuple[list[str], Sure, str]:
    if profile.kind == "time" and not profile.formats:
        return [], sure, f"{why}; where no time zone is written, UTC"
    if profile.kind == "time":
        keys = [f"format = {_text(profile.formats[0])}"]
        if len(profile.formats) > 1:
            return keys, "decide", f"it could also be {' or '.join(profile.formats[1:])}"
        return keys, sure, f"{why}; taken for UTC"
    if profile.epoch is not None:
        return [f'epoch = "{profile.epoch}"'], sure, f"{why}; since 1970"
    step = _STEPS.get(_key(profile.name), "seconds")
    first = 1 if profile.low == 1 else 0
    keys = [f'unit = "{step}"', f"first = {first}", "start = 2026-01-01T00:00:00Z"]
    return keys, "decide", "it counts steps: check the unit, and when the first one was"


def _read_as_label(profile: Profile, why: str) -> tuple[list[str], Sure, str]:
    positive = [value for value in profile.values if value.strip().lower() in _POSITIVE]
    negative = [value for value in profile.values if value not in positive]
    keys = [f"positive = {json.dumps(positive, ensure_ascii=False)}"]
    if negative:
        keys.append(f"negative = {json.dumps(negative, ensure_ascii=False)}")
    if profile.filled < profile.rows:
        return [*keys, "missing = false"], "decide", "a blank is taken for no fraud"
    if len(positive) != 1:
        return keys, "decide", "which of its values are frauds?"
    return keys, "likely", why


def _prefix(profile: Profile, found: Mapping[str, tuple[Profile, Sure]]) -> list[str]:
    """Keep the wallets of the two sides apart when the names say that they are different things."""
    nouns = [
        noun
        for side in ("source_wallet_id", "destination_wallet_id")
        for noun, names in _NOUNS.items()
        if side in found and _key(found[side][0].name) in names.split()
    ]
    own = [noun for noun, names in _NOUNS.items() if _key(profile.name) in names.split()]
    return [f"prefix = {_text(own[0])}"] if own and len(set(nouns)) == 2 else []


def _others(profiles: Iterable[Profile]) -> tuple[tuple[Choice, ...], dict[str, str]]:
    """The columns that no target took, as attributes, or ignored for a reason."""
    attributes: dict[str, Choice] = {}
    ignored = {}
    for profile in profiles:
        reason = _reason_to_ignore(profile) or _reason_for_no_input(profile)
        name = _attribute_name(profile.name)
        if reason is None and name in attributes:
            reason = f"another attribute is called {name}"
        if reason is None and len(attributes) == MOST_ATTRIBUTES:
            reason = f"there are {MOST_ATTRIBUTES} attributes already"
        if reason is not None:
            ignored[profile.name] = reason
            continue
        source = f'{{ column = {_text(profile.name)}, kind = "{profile.kind}" }}'
        why = "its values; can a caller send it when asking for a score?"
        attributes[name] = Choice(name, source, "likely", why, (profile.name,))
    return tuple(attributes.values()), ignored


def _reason_to_ignore(profile: Profile) -> str | None:
    key = _key(profile.name)
    if is_row_number(profile.name):
        return "the number of the row"
    if (leak := leak_by_name(profile.name)) is not None:
        return f"suspected leak: {leak}"
    if key in _PERSONAL:
        return "about a person"
    if "balance" in key:
        return "a balance that a caller may not know before the transaction"
    if profile.kind == "time" or (profile.kind == "epoch" and re.search("time|date|epoch", key)):
        return "another time"
    if key.startswith("txtime"):
        return "another time"
    if profile.kind == "empty" or profile.distinct <= 1:
        return "one value only"
    return "text with too many values" if profile.kind == "text" else None


def _reason_for_no_input(profile: Profile) -> str | None:
    """Why a column that may still hold an id is nothing that a model can learn from."""
    if profile.kind == "epoch":
        return f"another time: {profile.epoch} since 1970"
    if profile.running:
        return "it runs with the rows, as a counter or a time does"
    return None


def _attribute_name(name: str) -> str:
    words = re.sub("([a-z0-9])([A-Z])", r"\1_\2", name).lower()
    cleaned = re.sub("[^a-z0-9]+", "_", words).strip("_")
    return (cleaned if cleaned[:1].isalpha() else f"a_{cleaned}")[:40].rstrip("_")


def _text(value: str) -> str:
    """A TOML string; TOML wants DEL escaped, JSON does not."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def to_toml(proposal: Proposal, file: str) -> str:
    """The proposal as a mapping file, with its reasons as comments."""
    lines = [
        f"# Proposed for {_comment(file)}. Lines marked DECIDE need a person.",
        f"description = {_text(file)}",
    ]
    if all(choice.target != "label_known_at" for choice in proposal.columns):
        lines += [
            "# DECIDE: how long it takes until a fraud is known",
            'label_delay = "7d"',
        ]
    if proposal.ignored:
        lines += ["ignored = ["]
        lines += [
            f"    {_text(name)},  # {_comment(why)}" for name, why in proposal.ignored.items()
        ]
        lines += ["]"]
    lines += ["", "[columns]", *(line for choice in proposal.columns for line in _lines(choice))]
    if proposal.attributes:
        lines += ["", "[attributes]"]
        lines += [line for choice in proposal.attributes for line in _lines(choice)]
    return "\n".join(lines) + "\n"


def _lines(choice: Choice) -> list[str]:
    if choice.source is None:
        return [f"# DECIDE: {choice.why}", f'# {choice.target} = {{ column = "" }}']
    if choice.sure == "decide":
        return [f"# DECIDE: {_comment(choice.why)}", f"{choice.target} = {choice.source}"]
    return [f"{choice.target} = {choice.source}  # {choice.sure}: {_comment(choice.why)}"]


def _comment(text: str) -> str:
    return re.sub("[\x00-\x1f\x7f]", " ", text)
