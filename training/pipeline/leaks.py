"""Columns that alone tell the label: what is known only afterwards usually does.

Each column is judged on all rows whose label is known. A number ranks the rows by its value. Any
other value ranks them by its fraud rate, learnt on the odd rows and judged on the even ones, so
that chance does not look like knowledge; values that are too rare to learn from are taken together.
"""

# ruff: noqa: S608 — table and column names are ours.

import duckdb
import msgspec

from training.pipeline.schema import NUMBER

SEPARATES = 0.95
"""The area under the ROC curve (0.5 says nothing, 1 says all) from which a column is suspected."""
PURE = 0.95
"""The share of frauds from which a value is suspected."""
FEWEST = 30
"""Rows of a value, frauds, and other rows, below which nothing is judged."""
_PURE_SHARE = 0.05
_MOST_CATEGORIES = 50


class Separation(msgspec.Struct, frozen=True):
    """How well one column alone separates the frauds.

    `roc_auc`: 0.5 to 1, in the better direction. `by`: what ranks the rows: its `number`, its
    `value`, or its `absence`. `pure`: a value nearly all of whose rows are frauds.
    """

    column: str
    roc_auc: float
    by: str
    pure: str | None = None
    pure_rows: int = 0
    pure_frauds: int = 0

    @property
    def reason(self) -> str | None:
        """Why the column is suspected to be a leak; None when it is not."""
        if self.pure is not None:
            return f"{self.pure_frauds:,} of {self.pure_rows:,} rows with “{self.pure}” are frauds"
        if self.roc_auc >= SEPARATES:
            return f"its {self.by} alone separates the frauds (ROC-AUC {self.roc_auc:.3f})"
        return None


class Judge:
    """Judges columns of the table `judged`: `n`, `y` (the label) and texts, NULL where blank."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self.rows, self.frauds = self._row("SELECT count(*), count(*) FILTER (y) FROM judged")

    @property
    def hindrance(self) -> str | None:
        """Why nothing can be judged; None when there are enough frauds and other rows."""
        others = self.rows - self.frauds
        if self.frauds < FEWEST:
            return f"too few frauds, {self.frauds:,} of {self.rows:,} rows; {FEWEST} are needed"
        if others < FEWEST:
            return f"too few rows that are no frauds, {others:,}; {FEWEST} are needed"
        return None

    def separation(self, name: str, x: str) -> Separation:
        """How well the column `x`, which the file calls `name`, separates the frauds."""
        number = NUMBER.format(x=x)
        filled, numbers, distinct = self._row(
            f"SELECT count({x}), count({number}), approx_count_distinct({x}) FROM judged"
        )
        found = [(self._by_missing(x), "absence")]
        if numbers == filled and distinct > _MOST_CATEGORIES:
            found.append((self._by_number(number), "number"))
        else:
            found.append((self._by_value(x), "value"))
        area, by = max(found, key=lambda ranking: ranking[0])
        value, rows, frauds = self._purest(x)
        enough = frauds >= _PURE_SHARE * self.frauds
        return Separation(
            column=name,
            roc_auc=round(area, 4),
            by=by,
            pure=value if enough else None,
            pure_rows=rows if enough else 0,
            pure_frauds=frauds if enough else 0,
        )

    def _by_number(self, number: str) -> float:
        return self._area(f"SELECT {number} AS r, y FROM judged WHERE isfinite({number})")

    def _by_missing(self, x: str) -> float:
        return self._area(f"SELECT {x} IS NULL AS r, y FROM judged")

    def _by_value(self, x: str) -> float:
        return self._area(
            f"""
            SELECT coalesce(learnt.rate, {self.frauds / self.rows}) AS r, y
            FROM judged LEFT JOIN (
                SELECT {x} AS v, avg(y::INT) AS rate FROM judged WHERE n % 2 = 1
                GROUP BY {x} HAVING count(*) >= {FEWEST}
            ) AS learnt ON {x} IS NOT DISTINCT FROM learnt.v
            WHERE n % 2 = 0
            """
        )

    def _area(self, ranked: str) -> float:
        """The area under the ROC curve of the rank `r`, ties counting half; 0.5 if too few."""
        area, frauds, others = self._row(
            f"""
            WITH ranks AS (
                SELECT r, count(*) FILTER (y)::DOUBLE AS p, count(*) FILTER (NOT y)::DOUBLE AS q
                FROM ({ranked}) GROUP BY r
            ), sums AS (
                SELECT p, q, sum(q) OVER (ORDER BY r ROWS UNBOUNDED PRECEDING) AS upto FROM ranks
            )
            SELECT sum(p * (upto - q / 2)) / nullif(sum(p) * sum(q), 0), sum(p), sum(q) FROM sums
            """
        )
        if area is None or min(frauds, others) < FEWEST / 2:
            return 0.5
        return float(max(area, 1 - area))

    def _purest(self, x: str) -> tuple[str | None, int, int]:
        """The value with the most frauds of those with hardly anything else."""
        found = self._connection.execute(
            f"SELECT {x}, count(*), count(*) FILTER (y) AS frauds FROM judged "
            f"WHERE {x} IS NOT NULL GROUP BY {x} "
            f"HAVING count(*) >= {FEWEST} AND frauds >= {PURE} * count(*) "
            f"ORDER BY frauds DESC, {x} LIMIT 1"
        ).fetchone()
        return (None, 0, 0) if found is None else (found[0], found[1], found[2])

    def _row(self, query: str) -> tuple[float, ...]:
        row = self._connection.execute(query).fetchone()
        assert row is not None
        return row
