"""The people, shops and habits of the simulator, and the payments they make.

Everything is an array with one entry a wallet or a payment; the random generator is passed in and
is the only source of chance, so a seed decides everything.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Codes = NDArray[np.int8]
Floats = NDArray[np.float32]
Times = NDArray[np.int64]
Random = np.random.Generator

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR

COUNTRIES = ("FR", "BE", "ES", "IT", "DE", "PT", "MA", "SN", "CI", "GB", "US", "NL", "NG", "TR")
CITIES = (
    "Lyon", "Bruxelles", "Valencia", "Torino", "Köln", "Porto", "Rabat",
    "Dakar", "Abidjan", "Leeds", "Boston", "Utrecht", "Lagos", "Izmir",
)  # fmt: skip
HOME_SHARE = np.array([34, 9, 10, 9, 10, 5, 8, 7, 5, 3, 0, 0, 0, 0], dtype=np.float64) / 100
UTC_OFFSET_HOURS = np.array([1, 1, 1, 1, 1, 0, 1, 0, 0, 0, -5, 1, 1, 3], dtype=np.int64)

TYPES = ("PAYMENT", "TRANSFER", "BILL", "CASH_OUT", "CASH_IN", "SALARY")
PAYMENT, TRANSFER, BILL, CASH_OUT, CASH_IN, SALARY = range(len(TYPES))
STATUSES = ("SUCCESS", "FAILED", "CANCELED")
SUCCESS, FAILED, CANCELED = range(len(STATUSES))

ROWS_PER_PERSON = 62
FAVOURITE_SHOPS, CONTACTS, BILLERS, AGENTS = 6, 4, 3, 2


class Payments(NamedTuple):
    """Payments before balances are known, one array each of the same length.

    `amount` is in cents; where `share` is not negative the amount is that share of the balance
    instead, with `amount` as its upper bound. `kind` is 0, or 1 + the index of a kind of fraud.
    """

    time: Times
    source: Ints
    destination: Ints
    amount: Ints
    share: Floats
    type: Codes
    country: Codes
    status: Codes
    kind: Codes

    @property
    def rows(self) -> int:
        return len(self.time)

    def pick(self, rows: slice | NDArray[np.int64]) -> "Payments":
        """Some of the payments, in the order of `rows`."""
        return Payments._make(column[rows] for column in self)


class World(NamedTuple):
    """Every wallet: people first, then shops, digital merchants, billers, agents, employers."""

    days: int
    people: int
    shops: range
    digital: range
    billers: range
    agents: range
    employers: range
    home: Codes  # of every wallet, an index of COUNTRIES
    opened: Times  # of every wallet, ms from the start; negative when older
    activity: Floats  # of people, share of all payments
    typical: Floats  # of people, log of the median payment in cents
    spread: Floats  # of people, sigma of the log
    chronotype: Floats  # of people, hours later than most
    loyalty: Floats  # of people, share of payments that go to a favourite
    gamer: NDArray[np.bool_]
    mules: Ints
    favourites: Ints  # (people, FAVOURITE_SHOPS)
    contacts: Ints  # (people, CONTACTS)
    their_billers: Ints  # (people, BILLERS)
    their_agents: Ints  # (people, AGENTS)
    employer: Ints  # of people, -1 without one
    trip_start: Times  # of people, after the end when they do not travel
    trip_end: Times
    trip_country: Codes

    @property
    def wallets(self) -> int:
        return self.employers.stop

    @property
    def length(self) -> int:
        """Milliseconds covered."""
        return self.days * DAY


def popular(random: Random, among: range, size: int | tuple[int, ...]) -> Ints:
    """Draw from `among` with a long tail: the first ones are everybody's destinations."""
    skewed = random.random(size, dtype=np.float32) ** 2.2
    return (among.start + (skewed * len(among)).astype(np.int32)).astype(np.int32)


def local_hours(random: Random, size: int, shift: Floats) -> Floats:
    """Hours of day, 0 <= h < 24, at which people pay: five peaks, moved by their chronotype."""
    peaks = np.array([8.5, 12.6, 15.5, 18.6, 21.0], dtype=np.float32)
    peak = peaks[random.integers(0, len(peaks), size, dtype=np.int8)]
    hours = peak + shift + random.standard_normal(size, dtype=np.float32) * np.float32(1.4)
    return np.mod(hours, np.float32(24))


def create_world(random: Random, rows: int, days: int) -> World:
    """A world in which `rows` payments make about 50 outgoing ones a person."""
    people = max(rows // ROWS_PER_PERSON, 40)
    edges = [people]
    for members in (people // 40 + 20, people // 200 + 12, people // 400 + 6):
        edges.append(edges[-1] + members)
    for members in (people // 150 + 5, people // 35 + 2):
        edges.append(edges[-1] + members)
    shops, digital, billers, agents, employers = (range(low, high) for low, high in pairwise(edges))
    home = random.choice(len(COUNTRIES), edges[-1], p=HOME_SHARE).astype(np.int8)
    opened = -(random.gamma(2.0, 200.0, edges[-1]) * DAY).astype(np.int64) - DAY
    newcomers = np.flatnonzero(random.random(people) < 0.07)
    opened[newcomers] = random.integers(0, max(1, days * 3 // 4), len(newcomers)) * DAY
    mules = random.choice(people, max(4, rows // 9_000), replace=False).astype(np.int32)
    young = mules[random.random(len(mules)) < 0.5]
    opened[young] = -random.integers(1, 60 * DAY, len(young))
    activity = random.gamma(4.0, 1.0, people) + 0.7
    activity[mules] *= 0.6
    chronotype = random.normal(0, 1.2, people)
    chronotype += np.where(random.random(people) < 0.08, 5.5, 0)
    trip_start, trip_end, trip_country = _trips(random, people, days, home)
    employer = (employers.start + random.integers(0, len(employers), people)).astype(np.int32)
    employer[random.random(people) < 0.35] = -1
    return World(
        days=days,
        people=people,
        shops=shops,
        digital=digital,
        billers=billers,
        agents=agents,
        employers=employers,
        home=home,
        opened=opened,
        activity=(activity / activity.sum()).astype(np.float32),
        typical=np.minimum(random.normal(np.log(750), 0.75, people), np.log(2_200)).astype(
            np.float32
        ),
        spread=random.uniform(0.5, 0.95, people).astype(np.float32),
        chronotype=chronotype.astype(np.float32),
        loyalty=random.beta(6, 2.5, people).astype(np.float32),
        gamer=random.random(people) < 0.15,
        mules=mules,
        favourites=popular(random, shops, (people, FAVOURITE_SHOPS)),
        contacts=random.integers(0, people, (people, CONTACTS), dtype=np.int32),
        their_billers=popular(random, billers, (people, BILLERS)),
        their_agents=popular(random, agents, (people, AGENTS)),
        employer=employer,
        trip_start=trip_start,
        trip_end=trip_end,
        trip_country=trip_country,
    )


def _trips(random: Random, people: int, days: int, home: Codes) -> tuple[Times, Times, Codes]:
    """Three people in ten spend 2 to 14 days abroad."""
    start = (random.random(people) * days * DAY).astype(np.int64)
    end = start + random.integers(2, 15, people) * DAY
    stays = random.random(people) >= 0.3
    start[stays] = end[stays] = days * DAY + 1
    country = random.integers(0, len(COUNTRIES), people).astype(np.int8)
    return (
        start,
        end,
        np.where(country == home[:people], (country + 1) % 10, country).astype(np.int8),
    )


def whereabouts(world: World, person: Ints, time: Times) -> Codes:
    """Country of each person at that time."""
    away = (time >= world.trip_start[person]) & (time < world.trip_end[person])
    return np.where(away, world.trip_country[person], world.home[person]).astype(np.int8)


def moments(random: Random, world: World, person: Ints, day: Times) -> Times:
    """Times on the given days, at hours that suit each person, never before the account opened."""
    day = first_day(world, person) + _scaled(world, person, day)
    hour = local_hours(random, len(person), world.chronotype[person])
    local = day * DAY + (hour * np.float32(HOUR)).astype(np.int64)
    return local - UTC_OFFSET_HOURS[world.home[person]] * HOUR


def first_day(world: World, person: Ints) -> Times:
    """Number of the first whole day on which an account exists in the period."""
    return np.maximum(world.opened[person] // DAY + 1, 0)


def _scaled(world: World, person: Ints, day: Times) -> Times:
    return day * (world.days - first_day(world, person)) // world.days


def ordinary_payments(random: Random, world: World, count: int) -> Payments:
    """Exactly `count` legitimate payments of everyday life."""
    exact = world.activity.astype(np.float64) * count
    per_person = np.floor(exact).astype(np.int64)
    short = count - int(per_person.sum())
    per_person[np.argsort(per_person - exact, kind="stable")[:short]] += 1
    person = np.repeat(np.arange(world.people, dtype=np.int32), per_person)
    kind = _everyday_kind(random, world, person)
    rank, of = _rank_within(person, kind)
    time = _everyday_times(random, world, person, kind, rank, of)
    source, destination, type_ = _everyday_parties(random, world, person, kind, rank)
    amount = _everyday_amounts(random, world, person, kind, rank, of, per_person)
    income = kind >= CASH_IN
    country = np.where(income, world.home[source], whereabouts(world, person, time))
    status = np.zeros(count, dtype=np.int8)
    luck = random.random(count, dtype=np.float32)
    status[(luck < 0.008) & ~income] = FAILED
    status[(luck > 0.996) & ~income] = CANCELED
    return Payments(
        time=time,
        source=source,
        destination=destination,
        amount=amount,
        share=np.full(count, -1, dtype=np.float32),
        type=type_,
        country=country.astype(np.int8),
        status=status,
        kind=np.zeros(count, dtype=np.int8),
    )


MICRO = -1  # an everyday kind that is not a type: tiny payments to digital merchants
_KINDS = np.array([PAYMENT, TRANSFER, BILL, CASH_OUT, MICRO, CASH_IN], dtype=np.int8)
_KIND_SHARE = np.array([0.52, 0.14, 0.08, 0.06, 0.05, 0.15])


def _everyday_kind(random: Random, world: World, person: Ints) -> Codes:
    draw = random.random(len(person), dtype=np.float32)
    kind = _KINDS[np.minimum(np.searchsorted(np.cumsum(_KIND_SHARE), draw), len(_KINDS) - 1)]
    kind[(kind == MICRO) & ~world.gamer[person]] = PAYMENT
    more = (kind == PAYMENT) & world.gamer[person] & (random.random(len(person)) < 0.3)
    kind[more] = MICRO
    kind[(kind == CASH_IN) & (world.employer[person] >= 0)] = SALARY
    return kind


def _rank_within(person: Ints, kind: Codes) -> tuple[Ints, Ints]:
    """Of each payment: its number among the same person's of that kind, and how many there are."""
    rank = np.empty(len(person), dtype=np.int32)
    of = np.empty(len(person), dtype=np.int32)
    for each in np.unique(kind):
        chosen = np.flatnonzero(kind == each)
        owners = person[chosen]
        first = np.flatnonzero(np.r_[True, owners[1:] != owners[:-1]])
        sizes = np.diff(np.r_[first, len(owners)])
        rank[chosen] = np.arange(len(owners)) - np.repeat(first, sizes)
        of[chosen] = np.repeat(sizes, sizes)
    return rank, of


def _everyday_times(
    random: Random, world: World, person: Ints, kind: Codes, rank: Ints, of: Ints
) -> Times:
    """Days spread at random, except bills (by month) and income (evenly); errands follow."""
    count = len(person)
    day = (random.random(count, dtype=np.float32) * world.days).astype(np.int64)
    even = ((rank + random.random(count, dtype=np.float32)) * world.days / of).astype(np.int64)
    income = kind >= CASH_IN
    day[income] = np.minimum(even[income], world.days - 1)
    bills = np.flatnonzero(kind == BILL)
    months = np.maximum(1, world.days // 30)
    due = (rank[bills] // BILLERS) % months * 30 + (person[bills] * 7) % 28
    day[bills] = np.minimum(due, world.days - 1)
    time = moments(random, world, person, day)
    _run_payrolls(world, time, np.flatnonzero(kind == SALARY), person)
    follow_chance = np.where(kind == MICRO, 0.85, np.where(kind == BILL, 0.0, 0.16))
    follows = random.random(count, dtype=np.float32) < follow_chance
    follows[bills] = rank[bills] % BILLERS > 0
    follows &= (kind < CASH_IN) & (rank > 0)
    return _together(random, time, kind, person, follows)


def _run_payrolls(world: World, time: Times, salaries: Times, person: Ints) -> None:
    """An employer pays on its weekday, everybody within a quarter of an hour."""
    employer = world.employer[person[salaries]].astype(np.int64)
    week = time[salaries] // (7 * DAY)
    at = (employer % 5) * DAY + 7 * HOUR + (employer * 37 % 180) * MINUTE
    paid = week * 7 * DAY + at + (person[salaries].astype(np.int64) * 7_919) % (15 * MINUTE)
    time[salaries] = np.maximum(paid, world.opened[person[salaries]] + 9 * HOUR)


def _together(
    random: Random, time: Times, kind: Codes, person: Ints, follows: NDArray[np.bool_]
) -> Times:
    """Move payments that follow another of the same kind to minutes after it."""
    order = np.lexsort((np.arange(len(time)), kind, person))
    follows_sorted = follows[order]
    gap = random.exponential(5 * MINUTE, len(time)).astype(np.int64) + 15_000
    gap[~follows_sorted] = 0
    position = np.arange(len(time))
    head = np.maximum.accumulate(np.where(follows_sorted, 0, position))
    elapsed = np.cumsum(gap)
    out = np.empty_like(time)
    out[order] = time[order][head] + elapsed - elapsed[head]
    return out


def _everyday_parties(
    random: Random, world: World, person: Ints, kind: Codes, rank: Ints
) -> tuple[Ints, Ints, Codes]:
    count = len(person)
    pick = random.random(count, dtype=np.float32)
    favourite = np.minimum((pick * pick * FAVOURITE_SHOPS).astype(np.int8), FAVOURITE_SHOPS - 1)
    loyal = random.random(count, dtype=np.float32) < world.loyalty[person]
    destination = np.where(
        loyal, world.favourites[person, favourite], popular(random, world.shops, count)
    ).astype(np.int32)
    transfers = np.flatnonzero(kind == TRANSFER)
    contact = world.contacts[person[transfers], favourite[transfers] % CONTACTS]
    anyone = random.integers(0, world.people, len(transfers), dtype=np.int32)
    destination[transfers] = np.where(loyal[transfers], contact, anyone)
    bills = np.flatnonzero(kind == BILL)
    destination[bills] = world.their_billers[person[bills], rank[bills] % BILLERS]
    cash = np.flatnonzero((kind == CASH_OUT) | (kind == CASH_IN))
    agent = world.their_agents[person[cash], favourite[cash] % AGENTS]
    destination[cash] = np.where(loyal[cash], agent, popular(random, world.agents, len(cash)))
    micro = np.flatnonzero(kind == MICRO)
    usual = world.digital.start + (person[micro] * 31) % len(world.digital)
    destination[micro] = np.where(
        pick[micro] < 0.9, usual, popular(random, world.digital, len(micro))
    )
    destination = np.where(destination == person, world.shops.start, destination)
    salary = kind == SALARY
    destination[salary] = world.employer[person[salary]]
    income = kind >= CASH_IN
    source = np.where(income, destination, person).astype(np.int32)
    destination = np.where(income, person, destination).astype(np.int32)
    return source, destination, np.where(kind == MICRO, PAYMENT, kind).astype(np.int8)


def _everyday_amounts(
    random: Random,
    world: World,
    person: Ints,
    kind: Codes,
    rank: Ints,
    of: Ints,
    per_person: Times,
) -> Ints:
    count = len(person)
    noise = random.standard_normal(count, dtype=np.float32)
    amount = np.exp(world.typical[person] + noise * world.spread[person])
    amount[kind == TRANSFER] *= 1.5
    bills = kind == BILL
    fixed = 1.5 + (person[bills] * 13 + rank[bills] % BILLERS * 101) % 97 / 40
    amount[bills] = np.exp(world.typical[person[bills]]) * fixed
    cash = kind == CASH_OUT
    amount[cash] = np.maximum(1_000, np.round(amount[cash] * 2.5 / 1_000) * 1_000)
    micro = kind == MICRO
    amount[micro] = 20 + random.random(int(micro.sum()), dtype=np.float32) * 330
    income = kind >= CASH_IN
    who = person[income]
    outgoing = per_person[who] * (1 - _KIND_SHARE[-1])
    spent = outgoing * np.exp(world.typical[who] + world.spread[who] ** 2 / 2) * 1.45
    amount[income] = np.clip(np.round(spent * 1.1 / of[income] / 100) * 100, 1_000, 19_500)
    # Cash comes in at any hour: amounts that no rule for odd hours minds.
    amount[kind == CASH_IN] = np.minimum(amount[kind == CASH_IN], 11_900)
    beyond = (amount > 19_500) & (random.random(count, dtype=np.float32) < 0.97)
    amount[beyond] = 6_000 + amount[beyond] % 13_500
    return np.clip(amount, 10, 60_000).astype(np.int32)
