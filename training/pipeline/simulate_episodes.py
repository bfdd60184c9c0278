"""Episodes: bursts of payments that belong together, honest or not.

A maker takes a number of episodes and returns their payments; `exactly` runs makers in fixed
proportions until there are exactly enough rows.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.pipeline.simulate_people import (
    DAY,
    HOUR,
    UTC_OFFSET_HOURS,
    Codes,
    Floats,
    Ints,
    Payments,
    Random,
    Times,
    World,
    moments,
)

Reals = NDArray[np.float64]
Maker = Callable[[Random, World, int], Payments]


class Steps(NamedTuple):
    """The rows of many episodes: which episode each belongs to and its number within it."""

    episode: Times
    number: Times
    last: NDArray[np.bool_]


def exactly(
    random: Random, world: World, count: int, makers: Sequence[tuple[float, Maker]]
) -> Payments:
    """`count` payments, `share * count` of them by each maker; the shares add up to 1."""
    parts: list[Payments] = []
    wanted = np.diff(np.round(np.cumsum([0.0, *(share for share, _ in makers)]) * count))
    for (_, maker), part in zip(makers, wanted.astype(int), strict=True):
        missing = int(part)
        while missing > 0:
            made = maker(random, world, missing // 2 + 1)
            parts.append(made.pick(slice(missing)))
            missing -= parts[-1].rows
    if not parts:
        return nothing()
    return concatenate(parts)


def concatenate(parts: Sequence[Payments]) -> Payments:
    """All payments of `parts`, in order."""
    return Payments._make(np.concatenate(columns) for columns in zip(*parts, strict=True))


def nothing() -> Payments:
    """No payments."""
    types = (np.int64, np.int32, np.int32, np.int32, np.float32, np.int8, np.int8, np.int8, np.int8)
    return Payments._make(np.empty(0, dtype=type_) for type_ in types)


def in_steps(sizes: Times) -> Steps:
    """The rows of episodes of these sizes (at least one episode, at least one row each)."""
    ends = np.cumsum(sizes)
    episode = np.repeat(np.arange(len(sizes)), sizes)
    number = np.arange(int(ends[-1])) - np.repeat(ends - sizes, sizes)
    last = np.zeros(len(episode), dtype=np.bool_)
    last[ends - 1] = True
    return Steps(episode, number, last)


def times_of(random: Random, start: Times, steps: Steps, gap: Reals, sigma: float) -> Times:
    """Start of the episode plus lognormal gaps with a median of `gap` ms for each episode."""
    noise = np.exp(random.normal(0, sigma, len(steps.episode)))
    waits = np.where(steps.number > 0, gap[steps.episode] * noise, 0).astype(np.int64)
    elapsed = np.cumsum(waits)
    heads = np.flatnonzero(steps.number == 0)
    return start[steps.episode] + elapsed - elapsed[heads][steps.episode]


def draw_people(random: Random, world: World, count: int) -> Ints:
    """People drawn by how much they pay, so that most have a history."""
    edges = np.cumsum(world.activity.astype(np.float64))
    chosen = np.searchsorted(edges, random.random(count) * edges[-1])
    return np.asarray(np.minimum(chosen, world.people - 1), dtype=np.int32)


def starts_of(random: Random, world: World, person: Ints) -> Times:
    """Times in the period at hours that suit each person."""
    day = (random.random(len(person)) * world.days).astype(np.int64)
    return moments(random, world, person, day)


def night_starts(random: Random, world: World, person: Ints, night: float) -> Times:
    """Starts of which a share `night` falls between midnight and six in the morning."""
    start = starts_of(random, world, person)
    offset = UTC_OFFSET_HOURS[world.home[person]] * HOUR
    midnight = (start + offset) // DAY * DAY - offset
    small_hours = midnight + (random.random(len(person)) * 6 * HOUR).astype(np.int64)
    return np.where(random.random(len(person)) < night, small_hours, start)


def habitual(random: Random, world: World, person: Ints, factor: Reals) -> Ints:
    """Amounts in cents: the person's usual one times `factor`, with some spread."""
    noise = random.normal(0, 0.35, len(person))
    amount = np.exp(world.typical[person] + noise) * factor
    return np.clip(amount, 10, 29_500).astype(np.int32)


def not_self(world: World, person: Ints, destination: Ints | Times) -> Ints:
    """`destination`, or the next person where it would be the payer."""
    other = np.where(destination == person, (destination + 1) % world.people, destination)
    return np.asarray(other, dtype=np.int32)


def make_payments(
    time: Times,
    source: Ints,
    destination: Ints | Times,
    amount: Ints | Times | Reals,
    type_: Codes | int,
    country: Codes,
    *,
    share: Floats | float = -1.0,
    status: Codes | int = 0,
    kind: Codes | int = 0,
) -> Payments:
    """Payments from columns; what is one value for all of them is repeated."""
    shape = len(time)
    return Payments(
        time,
        source.astype(np.int32),
        destination.astype(np.int32),
        amount.astype(np.int32),
        np.broadcast_to(np.asarray(share, dtype=np.float32), shape),
        np.broadcast_to(np.asarray(type_, dtype=np.int8), shape),
        country.astype(np.int8),
        np.broadcast_to(np.asarray(status, dtype=np.int8), shape),
        np.broadcast_to(np.asarray(kind, dtype=np.int8), shape),
    )
