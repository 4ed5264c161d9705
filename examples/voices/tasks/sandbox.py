"""Runs a model's SQL where it can do no harm: in memory, bounded, reading and inserting only."""

import sqlite3

_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_INSERT,
            sqlite3.SQLITE_RECURSIVE, sqlite3.SQLITE_TRANSACTION}
_STEPS = 200_000  # of SQLite's virtual machine, before a statement is ended


def _guard(connection):
    def allow(action, first, *_):
        if action == sqlite3.SQLITE_FUNCTION and first == "load_extension":
            return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY

    connection.set_authorizer(allow)
    connection.set_progress_handler(lambda: 1, _STEPS)


def rows_of(query, base):
    """The rows (at most 1000) that `query` gives on `base`, a dict of create, table and rows."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute(base["create"])
        marks = ", ".join("?" * len(base["rows"][0]))
        connection.executemany(f"INSERT INTO {base['table']} VALUES ({marks})", base["rows"])
        _guard(connection)
        return connection.execute(query).fetchmany(1000)
    finally:
        connection.close()


def inserted(statement, table, columns):
    """The rows, as dicts, that `table` holds after `statement` ran on it empty."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.row_factory = sqlite3.Row
        connection.execute(f"CREATE TABLE {table} ({', '.join(columns)})")
        _guard(connection)
        connection.execute(statement)
        return [dict(row) for row in connection.execute(f"SELECT * FROM {table} LIMIT 1000")]
    finally:
        connection.close()
