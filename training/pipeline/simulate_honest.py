"""Honest payments that share traits with frauds, so that no trait alone gives a fraud away."""

import numpy as np

from training.pipeline.simulate_episodes import (
    draw_people,
    exactly,
    habitual,
    in_steps,
    make_payments,
    night_starts,
    not_self,
    starts_of,
    times_of,
)
from training.pipeline.simulate_people import (
    CASH_OUT,
    DAY,
    FAILED,
    HOUR,
    MINUTE,
    PAYMENT,
    SUCCESS,
    TRANSFER,
    Ints,
    Payments,
    Random,
    Times,
    World,
    popular,
    whereabouts,
)


def honest_episodes(random: Random, world: World, count: int) -> Payments:
    """Exactly `count` legitimate payments that have something of a fraud about them.

    Most share one or two traits with a fraud (a burst, the night, a refusal, a large part of the
    balance, a new country), so that no trait alone gives a fraud away; the last three share all.
    """
    makers = (
        (0.13, sprees),
        (0.10, nights_out),
        (0.15, retries),
        (0.16, settling_up),
        (0.14, large_regular_transfers),
        (0.13, moving_in),
        (0.07, arrivals),
        (0.07, trials),
        (0.016, big_transfers),
        (0.012, subscriptions),
        (0.022, passing_on),
    )
    return exactly(random, world, count, makers)


def big_transfers(random: Random, world: World, episodes: int) -> Payments:
    """A deposit, a used car, a present: much of the balance, to someone, often for the first time.

    Amounts, hours and payees are those of `drains`, apart from the payee's being a mule.
    """
    payer = draw_people(random, world, episodes)
    steps = in_steps(random.choice([1, 1, 1, 2], episodes))
    source = payer[steps.episode]
    time = times_of(
        random, starts_of(random, world, payer), steps, np.full(episodes, 9.0 * MINUTE), 1.0
    )
    contact = world.contacts[payer, random.integers(0, world.contacts.shape[1], episodes)]
    anyone = random.integers(0, world.people, episodes)
    payee = np.where(random.random(episodes) < 0.35, contact, anyone)
    share = random.uniform(0.3, 0.95, len(time)).astype(np.float32)
    cap = random.choice([5_000, 9_000, 15_000, 19_500, 19_500, 29_000], len(time))
    return make_payments(
        time,
        source,
        not_self(world, source, payee[steps.episode]),
        cap,
        TRANSFER,
        whereabouts(world, source, time),
        share=share,
    )


def large_regular_transfers(random: Random, world: World, episodes: int) -> Payments:
    """Rent, support for relatives: much of the balance, but always to the same people."""
    payer = draw_people(random, world, episodes)
    steps = in_steps(random.integers(1, 7, episodes))
    source = payer[steps.episode]
    time = times_of(
        random, starts_of(random, world, payer), steps, np.full(episodes, 6.0 * MINUTE), 1.0
    )
    payee = world.contacts[source, random.integers(0, 2, len(time))]
    return make_payments(
        time,
        source,
        not_self(world, source, payee),
        random.choice([7_900, 12_000, 15_000, 19_500], len(time)),
        TRANSFER,
        whereabouts(world, source, time),
        share=random.uniform(0.2, 0.8, len(time)).astype(np.float32),
    )


def settling_up(random: Random, world: World, episodes: int) -> Payments:
    """Small debts paid back to several people after a week together, at any hour."""
    payer = draw_people(random, world, episodes)
    steps = in_steps(random.integers(3, 13, episodes))
    source = payer[steps.episode]
    start = night_starts(random, world, payer, 0.15)
    time = times_of(random, start, steps, np.full(episodes, 5.0 * MINUTE), 1.2)
    factor = np.exp(random.normal(-0.4, 0.6, episodes))[steps.episode]
    return make_payments(
        time,
        source,
        not_self(world, source, random.integers(0, world.people, len(time))),
        np.minimum(habitual(random, world, source, factor), 7_000),
        TRANSFER,
        whereabouts(world, source, time),
    )


def sprees(random: Random, world: World, episodes: int) -> Payments:
    """A Saturday in town: several shops within the hour or two, well above habit."""
    return _shopping(random, world, draw_people(random, world, episodes), night=0.0)


def moving_in(random: Random, world: World, episodes: int) -> Payments:
    """A flat furnished in an afternoon: most of the balance, in shops never visited before."""
    payer = draw_people(random, world, episodes)
    steps = in_steps(random.integers(2, 8, episodes))
    source = payer[steps.episode]
    start = night_starts(random, world, payer, 0.1)
    time = times_of(random, start, steps, np.full(episodes, 9.0 * MINUTE), 1.0)
    return make_payments(
        time,
        source,
        popular(random, world.shops, len(time)),
        random.choice([7_900, 12_000, 15_000, 19_500], len(time)),
        PAYMENT,
        whereabouts(world, source, time),
        share=random.uniform(0.1, 0.6, len(time)).astype(np.float32),
        status=np.where(random.random(len(time)) < 0.05, FAILED, 0),
    )


def nights_out(random: Random, world: World, episodes: int) -> Payments:
    """The same at night: bars, taxis."""
    return _shopping(random, world, draw_people(random, world, episodes), night=0.9)


def arrivals(random: Random, world: World, episodes: int) -> Payments:
    """The first day abroad."""
    travellers = np.flatnonzero(world.trip_start < world.length - DAY).astype(np.int32)
    if not len(travellers):
        return sprees(random, world, episodes)
    payer = random.choice(travellers, episodes)
    start = world.trip_start[payer] + (random.random(episodes) * 8 * HOUR).astype(np.int64)
    return _shopping(random, world, payer, night=0.0, start=start)


def _shopping(
    random: Random, world: World, payer: Ints, *, night: float, start: Times | None = None
) -> Payments:
    episodes = len(payer)
    start = night_starts(random, world, payer, night) if start is None else start
    steps = in_steps(random.integers(3, 13, episodes))
    source = payer[steps.episode]
    gap = np.exp(random.normal(np.log(8 * MINUTE), 0.8, episodes))
    time = times_of(random, start, steps, gap, 0.8)
    factor = np.exp(random.normal(0.5, 0.6, episodes))[steps.episode]
    cash = random.random(len(time)) < 0.1
    return make_payments(
        time,
        source,
        np.where(
            cash,
            popular(random, world.agents, len(time)),
            popular(random, world.shops, len(time)),
        ),
        np.minimum(habitual(random, world, source, factor), 11_500),
        np.where(cash, CASH_OUT, PAYMENT),
        whereabouts(world, source, time),
        status=np.where(random.random(len(time)) < 0.03, FAILED, 0),
    )


def retries(random: Random, world: World, episodes: int) -> Payments:
    """One ordinary payment tried several times: a bad connection, a wrong code."""
    payer = draw_people(random, world, episodes)
    steps = in_steps(random.integers(2, 9, episodes))
    source = payer[steps.episode]
    time = times_of(
        random, starts_of(random, world, payer), steps, np.full(episodes, 1.0 * MINUTE), 0.8
    )
    payee = np.where(
        random.random(episodes) < 0.6,
        world.favourites[payer, 0],
        popular(random, world.shops, episodes),
    )
    amount = habitual(random, world, payer, np.exp(random.normal(0, 0.9, episodes)))
    return make_payments(
        time,
        source,
        payee[steps.episode],
        np.minimum(amount, 19_500)[steps.episode],
        PAYMENT,
        whereabouts(world, source, time),
        status=np.where(steps.last, SUCCESS, FAILED),
    )


def trials(random: Random, world: World, episodes: int) -> Payments:
    """One tiny payment to a digital merchant."""
    payer = draw_people(random, world, episodes)
    time = starts_of(random, world, payer)
    return make_payments(
        time,
        payer,
        popular(random, world.digital, episodes),
        20 + random.random(episodes) ** 2 * 600,
        PAYMENT,
        whereabouts(world, payer, time),
    )


def subscriptions(random: Random, world: World, episodes: int) -> Payments:
    """Tiny payments to several digital merchants: trials, apps, a card that is refused at first."""
    payer = draw_people(random, world, episodes)
    steps = in_steps(random.integers(2, 8, episodes))
    source = payer[steps.episode]
    gap = np.exp(random.normal(np.log(4 * MINUTE), 1.2, episodes))
    time = times_of(random, starts_of(random, world, payer), steps, gap, 0.8)
    clumsy = random.random(episodes) < 0.25
    fails = random.random(len(time)) < np.where(clumsy, 0.35, 0.03)[steps.episode]
    return make_payments(
        time,
        source,
        popular(random, world.digital, len(time)),
        20 + random.random(len(time)) ** 2 * 900,
        PAYMENT,
        whereabouts(world, source, time),
        status=np.where(fails, FAILED, 0),
    )


def passing_on(random: Random, world: World, episodes: int) -> Payments:
    """Money that comes in and goes on at once: a kitty, a shared rent, cash for a relative."""
    payer, middle = draw_people(random, world, episodes), draw_people(random, world, episodes)
    middle = not_self(world, payer, middle)
    sizes = random.choice([2, 2, 3], episodes)
    steps = in_steps(sizes)
    source = np.where(steps.number == 0, payer[steps.episode], middle[steps.episode])
    gap = np.exp(random.normal(np.log(25 * MINUTE), 1.0, episodes))
    time = times_of(random, starts_of(random, world, payer), steps, gap, 0.5)
    cash = (steps.number > 0) & (random.random(len(time)) < 0.4)
    payee = np.where(
        steps.number == 0,
        middle[steps.episode],
        np.where(
            cash,
            popular(random, world.agents, len(time)),
            random.integers(0, world.people, len(time)),
        ),
    )
    return make_payments(
        time,
        source,
        not_self(world, source, payee),
        random.choice([6_000, 12_000, 19_000], len(time)),
        np.where(cash, CASH_OUT, TRANSFER),
        whereabouts(world, source, time),
        share=random.uniform(0.25, 0.95, len(time)).astype(np.float32),
    )
