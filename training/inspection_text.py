"""An inspection of a file as lines for a terminal."""

from collections.abc import Iterator, Sequence

from training.pipeline.inspection import Inspection, Reading
from training.pipeline.reading import shown

_WIDEST = 44


def report(inspection: Inspection) -> Iterator[str]:
    """Yield what a person wants to know first, then each column, then what to decide."""
    yield f"{inspection.file}: {inspection.rows:,} rows, {len(inspection.columns)} columns"
    for fault, count in inspection.unreadable_lines.items():
        yield f"  {count:,} lines left out: {fault}"
    if inspection.reading is not None:
        yield from _facts(inspection, inspection.reading)
    yield ""
    yield from _columns(inspection)
    yield ""
    yield from _leaks(inspection)
    if inspection.proposal is not None:
        yield ""
        yield from _decisions(inspection)


def _facts(inspection: Inspection, reading: Reading) -> Iterator[str]:
    days = (reading.last_at - reading.first_at).total_seconds() / 86_400
    wallets, amounts = reading.wallets, reading.amounts
    share = reading.frauds / reading.good_rows
    facts = [
        ("period", f"{reading.first_at:%Y-%m-%d %H:%M} to {reading.last_at:%Y-%m-%d %H:%M} UTC, "
         f"{days:,.1f} days"),
        ("frauds", f"{reading.frauds:,} of {reading.good_rows:,} ({share:.3%})"),
        ("sources", f"{wallets.sources:,}, the busiest with {wallets.busiest_source:,} rows"),
        ("destinations", f"{wallets.destinations:,}, the busiest with "
         f"{wallets.busiest_destination:,} rows; {wallets.on_both_sides:,} are sources too"),
        ("amounts", f"{amounts.lowest:,.2f} to {amounts.highest:,.2f}, mean {amounts.mean:,.2f}, "
         f"median {amounts.median:,.2f}, 99 % up to {amounts.percentile_99:,.2f}"),
        ("", f"{amounts.zero:,} are 0, {amounts.negative:,} are negative"),
        ("repeats", f"{reading.repeated_ids:,} transaction ids, "
         f"{inspection.repeated_rows:,} whole rows"),
        ("bad rows", f"{reading.bad_rows:,}"),
    ]  # fmt: skip
    for name, text in facts:
        yield f"  {name:<13} {text}"
    for fault, count in list(reading.faults.items())[:10]:
        yield f"  {'':<13} {count:,}: {fault}"


def _columns(inspection: Inspection) -> Iterator[str]:
    areas = {one.column: f"{one.roc_auc:.3f}" for one in inspection.separations}
    rows = [("column", "values", "missing", "alone", "becomes")]
    for column in inspection.columns:
        missing = inspection.missing.get(column.name, 0) / inspection.rows
        rows.append((
            _cut(shown(column.name)),
            column.kind,
            f"{missing:.1%}" if missing else "",
            areas.get(column.name, ""),
            _cut(inspection.uses[column.name]),
        ))  # fmt: skip
    yield from _table(rows)
    if areas:
        yield "alone: ROC-AUC of a ranking by this column only; 0.5 says nothing, 1 says all."


def _leaks(inspection: Inspection) -> Iterator[str]:
    if inspection.not_judged is not None:
        yield f"Leaks among the values were not looked for: {inspection.not_judged}."
    elif not inspection.leaks:
        yield "Suspected leaks: none."
    if not inspection.leaks:
        return
    yield "Suspected leaks (leave out what was not known when the payment was made):"
    for name, why in inspection.leaks.items():
        yield f"  {shown(name)}: {why}"


def _decisions(inspection: Inspection) -> Iterator[str]:
    assert inspection.proposal is not None
    yield "Proposed mapping (--out FILE writes it):"
    chosen = [(c.sure, c.target, c.source or "?") for c in inspection.proposal.columns]
    yield from (f"  {line}" for line in _table(chosen))
    if inspection.proposal.attributes:
        yield "Proposed attributes, if a caller can send them when asking for a score:"
        yield f"  {', '.join(choice.target for choice in inspection.proposal.attributes)}"
    yield "To decide:"
    for choice in inspection.proposal.decisions:
        yield f"  {choice.target}: {choice.why}"
    yield "  label_delay: how long it takes until a fraud is known"


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"
