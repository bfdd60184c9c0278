"""A transaction's turn, whatever the database."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.features.catalogue import ADDITIVE_WINDOWS
from engine.features.kernel import COUNT, INCOMING_COUNT
from engine.features.live import (
    NO_EDGES,
    NO_INCOMING_EDGES,
    History,
    decode_events,
    decode_incoming,
    effective_time,
    incoming_edge_times,
    incoming_edges_to_seek,
    windows_to_seek,
)
from engine.transaction import Transaction
from scoring.history.statements import NewRecord

Ints = NDArray[np.int64]


class Past(NamedTuple):
    """What is known of a new transaction when its turn has come."""

    history: History
    is_labelled: bool
    """Whether a label arrived before the transaction."""


class Read(NamedTuple):
    """What one read gives; events newest first, as the index is read."""

    events: bytes
    failures: Ints
    source_frauds: Ints
    incoming: bytes
    destination_frauds: Ints
    is_labelled: bool


class Turn:
    """What transactions may read and write while their wallets are their own."""

    def read(self, subject: Transaction, label_delay: int) -> Past | None:
        """The past of one of the turn's transactions, what this turn wrote before included.

        None when its id was recorded before. `label_delay` (µs) is that of the bundle to score it.
        """
        found = self._read(subject, label_delay)
        if found is None:
            return None
        events = _oldest_first(decode_events(found.events))
        incoming = _oldest_first(decode_incoming(found.incoming))
        edges, incoming_edges = self._edges(subject, events, incoming, label_delay)
        history = History(
            events=events,
            edges=edges,
            failures=found.failures,
            incoming=incoming,
            incoming_edges=incoming_edges,
            source_frauds=found.source_frauds,
            destination_frauds=found.destination_frauds,
        )
        return Past(history, found.is_labelled)

    def _edges(
        self, subject: Transaction, events: Ints, incoming: Ints, label_delay: int
    ) -> tuple[Ints, Ints]:
        """The running totals before each edge that reaches further back than a tail."""
        now = effective_time(subject.created_at_us, events)
        incoming_now = effective_time(subject.created_at_us, incoming)
        outer = windows_to_seek(events, now)
        inner = incoming_edges_to_seek(incoming, incoming_now, label_delay)
        if not outer and not inner:
            return NO_EDGES, NO_INCOMING_EDGES
        times = incoming_edge_times(incoming_now, label_delay)
        found, found_incoming = self._seek(
            subject, [now - ADDITIVE_WINDOWS[at] for at in outer], [times[at] for at in inner]
        )
        edges, incoming_edges = NO_EDGES.copy(), NO_INCOMING_EDGES.copy()
        edges[list(outer)] = decode_events(found)[:, COUNT:]
        incoming_edges[list(inner)] = decode_incoming(found_incoming)[:, INCOMING_COUNT:]
        return edges, incoming_edges

    def _read(self, subject: Transaction, label_delay: int) -> Read | None:
        raise NotImplementedError

    def _seek(
        self, subject: Transaction, times: Sequence[int], incoming_times: Sequence[int]
    ) -> tuple[bytes, bytes]:
        """The last source event before each of `times` and the last incoming one before each of
        `incoming_times`; zeros where there is none."""
        raise NotImplementedError

    def write(self, record: NewRecord) -> None:
        """Write an attempt and its record; they are durable when the turn has ended."""
        raise NotImplementedError

    def attempt_id(self, transaction_id: str) -> int:
        """The id of an attempt that was written in this turn."""
        raise NotImplementedError


def _oldest_first(events: Ints) -> Ints:
    return np.ascontiguousarray(events[::-1])
