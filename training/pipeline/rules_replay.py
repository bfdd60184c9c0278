"""The rules over a data set, as if Sentinelle had scored its rows one after the other.

The rule engine evaluates them; it is only asked less often. A rule reads few of a row's values, so
it is evaluated once for each distinct combination of them. Rules of which hardly a combination
occurs twice are evaluated together, row by row.

A rule may read what Sentinelle itself decided before (R15 counts the wallet's blocks of the last
24 hours), and what it decided depends on the thresholds, which are being tuned. So every row is
first evaluated once as if nothing had been blocked before it; then, for given thresholds, only the
rows that follow a block of their wallet are evaluated again, in order. Blocks are replayed from the
first row given: what happened before that is taken as not blocked.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.features.catalogue import DAY, FEATURE_INDEX, HOUR
from engine.features.kernel import TAIL
from engine.policy import Policy
from engine.rules import CONVERSIONS, RuleResult, RuleSet
from training.pipeline.table import Transactions

COUNTRY_WINDOW = 30 * DAY
# Rows whose combinations are looked for at a time. Python objects for all of them would take
# gigabytes; in fewer rows fewer repeat.
CHUNK = 200_000
WALKED = 20_000
# Evaluating one rule more in the same context costs about half of a context of its own.
RARELY_TWICE = 0.5

COUNTRIES, BLOCKS = "user_country_history", "blocked_tx_last_24h"
_TEXTS = {
    "currency": "currency",
    "direction": "direction",
    "transaction_type": "transaction_type",
    "country": "country",
    "source_status": "source_wallet_status",
    "destination_status": "destination_wallet_status",
    "user_status": "user_status",
    "user_risk_level": "user_risk_level",
}
"""The variables that are text, and the columns that hold them."""

PastBlocks = dict[int, deque[int]]
"""By wallet: the times of its blocks that are not yet known to be older than 24 hours."""


class CountriesBefore(NamedTuple):
    """The countries that each row's source wallet was in during the 30 days before it."""

    lists: list[list[str]]
    """The distinct lists, sorted."""
    codes: NDArray[np.int32]
    """(rows,) which of them is each row's."""


class Replayed(NamedTuple):
    """What the rules and the policy made of each row; arrays of the rows given."""

    rule_blocked: NDArray[np.bool_]
    rule_score: NDArray[np.float64]
    """min(1, sum of boosts); 1 where a rule blocks."""
    risk: NDArray[np.float64]
    """The risk score in [0, 1]; 1 where a rule blocks."""
    blocks_before: NDArray[np.int32]
    """The wallet's blocks during the 24 hours before."""
    results: NDArray[np.int32]
    """What the rules say: positions in `RuleReplay.results`."""


class RuleReplay:
    """The rules over the rows of `rows`, evaluated on construction.

    Args:
        transactions: the whole data set: the history of countries begins at its first row.
        history: (rows, len(columns)) from `engine.features.replay`, of `rows` only.
        rows: which rows to evaluate.
        progress: called with the number of rows evaluated so far.
        countries: `countries_before` of `rows`, when it is known already.
        columns: where in `history` each feature that rules read is.
    """

    def __init__(
        self,
        rules: RuleSet,
        transactions: Transactions,
        history: NDArray[np.float64],
        rows: slice,
        progress: Callable[[int], None] = lambda _: None,
        countries: CountriesBefore | None = None,
        columns: Mapping[str, int] = FEATURE_INDEX,
    ) -> None:
        self._rules = rules
        self._parts: dict[tuple[int, ...], RuleSet] = {}
        if countries is None and any(COUNTRIES in rule.inputs for rule in rules.rules):
            countries = countries_before(transactions, rows)
        self._values = _Values(transactions, history, columns, rows, countries)
        self._source = transactions.source[rows]
        self._times = transactions.created_at[rows]
        self._known = _Results(rules)
        self._results = self._evaluate(progress)

    @property
    def results(self) -> Sequence[RuleResult]:
        """Everything that the rules said of a row so far."""
        return self._known.results

    def replay(
        self,
        policy: Policy,
        supervised: NDArray[np.float64],
        unsupervised: NDArray[np.float64],
        past: PastBlocks | None = None,
    ) -> Replayed:
        """The rules and risks with these thresholds deciding what was blocked before each row.

        Args:
            supervised, unsupervised: (rows,) model scores in [0, 1], for every row.
            past: what was blocked before the first row, brought up to the last one here.
        """
        past = {} if past is None else past
        before = np.zeros(len(self._source), dtype=np.int32)
        results = self._results.copy()
        rule_blocked = np.array([bool(result.blocks) for result in self.results])[results]
        score = np.array([result.rule_score for result in self.results])[results]
        risk = np.where(rule_blocked, 1.0, policy.risk(score, supervised, unsupervised))
        blocked = rule_blocked | (risk >= policy.block)
        for row, wallet, time in self._rows_of({*past, *self._source[blocked].tolist()}):
            times = past.setdefault(wallet, deque())
            while times and times[0] < time - DAY:
                times.popleft()
            if times:
                before[row] = len(times)
                results[row] = self._again(row, len(times))
                result = self.results[results[row]]
                rule_blocked[row], score[row] = bool(result.blocks), result.rule_score
                scores = (score[row], supervised[row], unsupervised[row])
                risk[row] = 1.0 if rule_blocked[row] else policy.risk(*scores)
                blocked[row] = rule_blocked[row] or risk[row] >= policy.block
            if blocked[row]:
                times.append(time)
            elif not times:
                del past[wallet]
        return Replayed(rule_blocked, score, risk, before, results)

    def _evaluate(self, progress: Callable[[int], None]) -> NDArray[np.int32]:
        """(rows,) what the rules say with no block before any row."""
        rows = len(self._source)
        results = np.empty(rows, dtype=np.int32)
        for start in range(0, rows, CHUNK):
            chunk = slice(start, min(start + CHUNK, rows))
            results[chunk] = self._known.of_rows(self._branches(chunk))
            progress(chunk.stop)
        return results

    def _branches(self, rows: slice) -> NDArray[np.uint16]:
        """(rows, rules) the branches that hold in a chunk of rows."""
        count = rows.stop - rows.start
        branches = np.zeros((count, len(self._rules.rules)), dtype=np.uint16)
        rare = []
        for at, rule in enumerate(self._rules.rules):
            combinations = self._values.distinct(rule.inputs, rows)
            if combinations.size > RARELY_TWICE * count:
                rare.append(at)
            else:
                branches[:, [at]] = self._evaluated((at,), combinations)
        if rare:
            inputs = sorted({name for at in rare for name in self._rules.rules[at].inputs})
            combinations = self._values.distinct(inputs, rows)
            branches[:, rare] = self._evaluated(tuple(rare), combinations)
        return branches

    def _evaluated(
        self, rules: tuple[int, ...], combinations: "_Combinations"
    ) -> NDArray[np.uint16]:
        """(rows, len(rules)) the branches of some rules that hold."""
        part = self._part(rules)
        numbers = chain.from_iterable(map(part.branches, combinations.contexts))
        found = np.fromiter(numbers, np.uint16, combinations.size * len(rules))
        return found.reshape(combinations.size, len(rules))[combinations.codes]

    def _part(self, rules: tuple[int, ...]) -> RuleSet:
        if rules not in self._parts:
            self._parts[rules] = self._rules.part(rules)
        return self._parts[rules]

    def _again(self, row: int, blocks: int) -> int:
        """What the rules say of a row with that many blocks before it."""
        branches = list(self._known.branches[self._results[row]])
        for at, rule in enumerate(self._rules.rules):
            if BLOCKS in rule.inputs:
                context = next(self._values.distinct(rule.inputs, slice(row, row + 1)).contexts)
                context[BLOCKS] = float(blocks)
                branches[at] = self._part((at,)).branches(context)[0]
        return self._known.position(tuple(branches))

    def _rows_of(self, wallets: set[int]) -> Iterator[tuple[int, int, int]]:
        """The rows of these wallets in order: the row, its wallet, its time."""
        rows = np.flatnonzero(np.isin(self._source, list(wallets)))
        yield from _row_by_row(rows, self._source[rows], self._times[rows])


class _Results:
    """What a rule set says, once for each combination of branches that was met."""

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules
        self._positions: dict[tuple[int, ...], int] = {}
        self.branches: list[tuple[int, ...]] = []
        self.results: list[RuleResult] = []
        self._nothing = self.position((0,) * len(rules.rules))

    def position(self, branches: tuple[int, ...]) -> int:
        """Where the result of these branches is in `results`."""
        at = self._positions.setdefault(branches, len(self.results))
        if at == len(self.results):
            self.branches.append(branches)
            self.results.append(self._rules.result(branches))
        return at

    def of_rows(self, branches: NDArray[np.uint16]) -> NDArray[np.int32]:
        """(rows,) the positions of the results of (rows, rules) branches."""
        positions = np.full(len(branches), self._nothing, dtype=np.int32)
        fired = np.flatnonzero(branches.any(axis=1))
        distinct, codes = np.unique(branches[fired], axis=0, return_inverse=True)
        found = [self.position(tuple(row)) for row in distinct.tolist()]
        positions[fired] = np.array(found, dtype=np.int32)[codes]
        return positions


class _Values:
    """The values of the variables that rules read; None where the data set does not say."""

    def __init__(
        self,
        transactions: Transactions,
        history: NDArray[np.float64],
        columns: Mapping[str, int],
        rows: slice,
        countries: CountriesBefore | None,
    ) -> None:
        self._transactions = transactions
        self._history = history
        self._columns = columns
        self._first = rows.start
        self._countries = countries

    def distinct(self, names: Sequence[str], rows: slice) -> "_Combinations":
        """The distinct combinations of some variables in `rows` (positions in those evaluated);
        nothing was blocked before them."""
        columns = [self._encoded(name, rows) for name in names]
        codes = reduce(_paired, columns).codes
        distinct, first, codes = np.unique(codes, return_index=True, return_inverse=True)
        values = zip(*(column.at(first) for column in columns), strict=True)
        contexts = (dict(zip(names, each, strict=True)) for each in values)
        return _Combinations(len(distinct), codes, contexts)

    def _encoded(self, name: str, rows: slice) -> "_Column":
        here = slice(self._first + rows.start, self._first + rows.stop)
        if name in _TEXTS:
            text = self._transactions.text[_TEXTS[name]]
            unknown = "outgoing" if name == "direction" else None
            # Code -1, null, is the last entry.
            return _Column(text.codes[here] % (len(text.names) + 1), [*text.names, unknown])
        if name == COUNTRIES:
            assert self._countries is not None
            return _Column(self._countries.codes[rows], self._countries.lists)
        values, codes = np.unique(self._numbers(name, rows, here), return_inverse=True)
        convert = CONVERSIONS.get(name, bool)  # only same_wallet has none, and is one
        return _Column(codes, [convert(value) for value in values.tolist()])

    def _numbers(self, name: str, rows: slice, here: slice) -> NDArray[Any]:
        data = self._transactions
        match name:
            case "amount":
                return data.amount[here]
            case "hour":  # of the day, so that it repeats
                return data.created_at[here] % DAY // HOUR * HOUR
            case "same_wallet":
                return np.equal(data.source[here], data.destination[here])
            case "source_balance" | "account_age_minutes":
                return data.numbers[name][here]
            case "blocked_tx_last_24h":
                return np.zeros(rows.stop - rows.start)
        history: NDArray[np.float64] = self._history[rows, self._columns[name]]
        return history


class _Combinations(NamedTuple):
    """The distinct combinations of values of some rows, as contexts to evaluate rules in."""

    size: int
    codes: NDArray[np.int64]
    """(rows,) which of them is each row's."""
    contexts: Iterator[dict[str, Any]]


class _Column(NamedTuple):
    """Values of some rows: row i has `values[codes[i]]`."""

    codes: NDArray[Any]
    values: list[Any]

    def at(self, rows: NDArray[np.int64]) -> Iterator[Any]:
        """The values of these rows."""
        return map(self.values.__getitem__, self.codes[rows].tolist())


def _paired(one: _Column, other: _Column) -> _Column:
    """Both columns as one of pairs, of which only the codes matter."""
    pairs = one.codes.astype(np.int64) * len(other.values) + other.codes
    distinct, codes = np.unique(pairs, return_inverse=True)
    return _Column(codes, [None] * len(distinct))


def countries_before(transactions: Transactions, rows: slice) -> CountriesBefore:
    """The countries that each row's source wallet was in during the 30 days before it.

    As `engine.features.live.countries_30d`, among the wallet's last 1,000 attempts.
    """
    country = transactions.text["country"]
    lists: list[list[str]] = [[]]
    numbers: dict[tuple[int, ...], int] = {(): 0}
    result = np.zeros(rows.stop - rows.start, dtype=np.int32)
    if not country.names:
        return CountriesBefore(lists, result)
    seen: dict[int, dict[int, tuple[int, int]]] = {}
    attempts: dict[int, int] = {}
    until = slice(rows.stop)
    columns = (transactions.source[until], transactions.created_at[until], country.codes[until])
    for row, (wallet, time, code) in enumerate(_row_by_row(*columns)):
        count = attempts.get(wallet, 0)
        places = seen.setdefault(wallet, {})
        if row >= rows.start:
            recent = (
                place
                for place, (last, at) in places.items()
                if last >= time - COUNTRY_WINDOW and at >= count - TAIL
            )
            key = tuple(sorted(recent))
            if key not in numbers:
                numbers[key] = len(lists)
                lists.append(sorted(country.names[place] for place in key))
            result[row - rows.start] = numbers[key]
        attempts[wallet] = count + 1
        if code >= 0:
            places[code] = (time, count)
    return CountriesBefore(lists, result)


def _row_by_row(*columns: NDArray[Any]) -> Iterator[tuple[Any, ...]]:
    """The rows as Python's own numbers, of which there are never many."""
    for start in range(0, len(columns[0]), WALKED):
        part = slice(start, start + WALKED)
        yield from zip(*(column[part].tolist() for column in columns), strict=True)
