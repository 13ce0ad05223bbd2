"""The database of a tuning: its URL, its connection, and its errors in one line without a password."""

import contextlib
import random
import time
from pathlib import Path
from typing import Any

from cifarlab.errors import CifarlabError, UsageError, one_line

try:
    import sqlalchemy
    from optuna.exceptions import StorageInternalError
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
except ModuleNotFoundError as error:
    raise UsageError(f"tuning needs {error.name}: pip install 'cifarlab[tune]'") from error

SQLITE_TIMEOUT = 60  # seconds to wait for a lock: SQLite lets one process write at a time
TRIES_TO_CREATE = 8  # because several processes may create the tables at the same moment
WRONG_FILE = ("SQLITE_CANTOPEN", "SQLITE_NOTADB")  # SQLite's errors for a wrong path
DATABASE_ERRORS = (StorageInternalError, SQLAlchemyError)


def connect(url: str, **options: Any) -> RDBStorage:
    """Return Optuna's storage, with these options, in a database whose tables are created if needed."""
    address = _address(url)
    public = without_password(url)
    sqlite = address.get_backend_name() == "sqlite"
    engine_options = {"connect_args": {"timeout": SQLITE_TIMEOUT}} if sqlite else {}
    try:
        engine = sqlalchemy.create_engine(address, **engine_options)
        engine.connect().close()  # fail at once if the database cannot be reached
        engine.dispose()
        storage = _create_storage(address, engine_kwargs=engine_options, **options)
    except (ImportError, NoSuchModuleError) as error:
        fix = ": pip install 'cifarlab[postgres]'" if address.drivername == "postgresql+psycopg" else ""
        raise UsageError(f"--storage {public}: the database's driver is missing ({one_line(error)}){fix}") from error
    except DATABASE_ERRORS as error:
        if getattr(_cause(error), "sqlite_errorname", "") in WRONG_FILE:
            folder = Path(address.database or "").absolute().parent
            reason = one_line(_cause(error)) if folder.is_dir() else f"the folder {folder} does not exist"
            raise UsageError(f"the database of the tuning ({public}) failed: {reason}") from error
        raise database_failed(error, f" ({public})") from error
    if sqlite:
        _lock_on_begin(storage.engine)
    return storage


def _create_storage(address: sqlalchemy.URL, **options: Any) -> RDBStorage:
    """Create tables, and try again if another process was creating them at the same moment."""
    # Optuna formats the URL with its own version, so that braces have to be doubled.
    template = address.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
    for _ in range(TRIES_TO_CREATE - 1):
        with contextlib.suppress(*DATABASE_ERRORS, AssertionError):  # Optuna asserts that the tables are complete
            return RDBStorage(template, **options)
        time.sleep(random.uniform(0.05, 0.5))
    return RDBStorage(template, **options)


def _lock_on_begin(engine: sqlalchemy.Engine) -> None:
    """Let every SQLite transaction lock the database when it begins.

    Optuna reads whether a queued trial is free before it takes the trial. Without the lock two processes take the same.
    """

    @sqlalchemy.event.listens_for(engine, "connect")
    def leave_transactions_to_sqlalchemy(connection: object, _: object) -> None:
        connection.isolation_level = None  # type: ignore[attr-defined]  # a connection of the sqlite3 module

    @sqlalchemy.event.listens_for(engine, "begin")
    def lock(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # the connections that creating the tables left do not lock


def database_failed(error: Exception, place: str = "") -> CifarlabError:
    """Return a one-line error for a failed database, without its password and the SQL statement."""
    return CifarlabError(f"the database of the tuning{place} failed: {one_line(_cause(error))[:200]}")


def _cause(error: Exception) -> object:
    """Return the error of the database's driver."""
    return getattr(error, "orig", None) or getattr(error.__cause__, "orig", None) or error


def sqlite_url(path: Path) -> str:
    """Return the URL of an SQLite file."""
    return sqlalchemy.URL.create("sqlite", database=str(path.resolve())).render_as_string(hide_password=False)


def without_password(url: str) -> str:
    """Return a database URL that can be shown."""
    return _address(url).render_as_string(hide_password=True)


def _address(url: str) -> sqlalchemy.URL:
    try:
        address = sqlalchemy.make_url(url)
    except (ArgumentError, ValueError) as error:
        raise UsageError(
            "--storage must be a database URL, such as sqlite:///tuning.db or postgresql://USER@HOST/NAME"
        ) from error
    is_postgres = address.drivername in ("postgresql", "postgres")
    return address.set(drivername="postgresql+psycopg") if is_postgres else address
