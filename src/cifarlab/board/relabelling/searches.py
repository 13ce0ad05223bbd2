"""Searches for suspicious images: `cifarlab data issues` in a process of its own, one at a time."""

import contextlib
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

from cifarlab import files
from cifarlab.board.answers import BusyError
from cifarlab.board.predictions import FileVersions, file_versions
from cifarlab.board.resuming import start
from cifarlab.errors import one_line
from cifarlab.runs.folder import RunFolder

TABLE = "issues.csv"
LONGEST_REASON = 500  # letters


@dataclass(frozen=True)
class _Search:
    process: subprocess.Popen[bytes]
    log: Path
    before: FileVersions  # of the table

    @property
    def reason(self) -> str:
        """Why the search failed, in one line; empty if it has not failed."""
        if not (status := self.process.poll()):
            return ""
        last = ""
        with contextlib.suppress(OSError):  # the cache may have been emptied
            last = files.read_regular(self.log).decode(errors="replace").strip().rpartition("\n")[2]
        reason = last.removeprefix("error: ") if last.startswith("error: ") else f"it ended with status {status}"
        return one_line(reason)[:LONGEST_REASON]


class Searches:
    """The latest search of each folder of issues."""

    def __init__(self) -> None:
        self._searches: dict[Path, _Search] = {}
        self._starting = threading.Lock()

    def start(self, run: RunFolder, folder: Path) -> None:
        """Start a search of a run's data, which writes into a folder."""
        with self._starting:
            if any(search.process.poll() is None for search in self._searches.values()):
                raise BusyError("another search is running. Wait until it ends.")
            files.make_folder(folder.parent)
            command = ["data", "issues", str(run.path.resolve()), "--out", str(folder), "--force"]
            before = file_versions(folder, [TABLE])
            log = folder.with_suffix(".log")
            with log.open("wb") as errors:
                self._searches[folder] = _Search(start(command, errors), log, before)

    def state(self, folder: Path) -> tuple[bool, str]:
        """Return whether a folder is searched for, and why its latest search failed.

        A search has ended when its table is there, although the process takes some more seconds.
        """
        search = self._searches.get(folder)
        if search is None:
            return False, ""
        is_searching = search.process.poll() is None and file_versions(folder, [TABLE]) == search.before
        return is_searching, search.reason
