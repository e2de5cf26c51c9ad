"""A local MLflow store that was moved or copied: its database follows its folder.

MLflow writes absolute paths of artefacts into its database. The artefacts of a SQLite store lie
beside the database, so their present place is known.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)


def follow_moved_artifacts(database: Path, artifacts: Path, experiment: str) -> bool:
    """Let the rows of a moved store name the folder `artifacts`; return whether it had moved.

    The place where `experiment` was created says where the folder was before. Rows that name other
    places stay unchanged; so do all rows while `artifacts` holds nothing.
    """
    if not database.is_file() or not artifacts.is_dir() or not any(artifacts.iterdir()):
        return False
    now = artifacts.resolve().as_uri()
    with closing(sqlite3.connect(database, timeout=60.0, isolation_level=None)) as connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        if "experiments" not in tables:
            return False
        found = connection.execute(
            "SELECT artifact_location FROM experiments WHERE name = ?", (experiment,)
        ).fetchone()
        before = found[0].rstrip("/") if found and found[0] else now
        if before == now or not before.startswith("file://"):
            return False
        connection.execute("BEGIN IMMEDIATE")
        for table, column in _COLUMNS:
            if table in tables:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (now, len(before) + 1, before, len(before) + 1, before + "/"),
                )
        connection.execute("COMMIT")
    return True
