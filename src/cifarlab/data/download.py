"""Download one file so that a cut connection, a stalled host or a slow host costs little."""

import json
import re
import shutil
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import requests

from cifarlab import files
from cifarlab.errors import CifarlabError, one_line, shorten
from cifarlab.progress import task

CONNECT_SECONDS = 10.0
STALL_SECONDS = 20.0  # without any byte
SLOW_RATE = 100_000  # bytes per second; a host that is slower over SLOW_SECONDS is left for another source
SLOW_SECONDS = 30.0
TRIES = 4  # per source; each one continues where the last one was cut
LARGEST = 400 * 2**20  # bytes; the archives of CIFAR-10 have 170 million
CHUNK = 16 * 1024  # bytes; speed is measured, and data before a cut is kept, in whole chunks
NPM_SECONDS = 15.0


def fetch(url: str, target: Path, *, patient: bool, quiet: bool = False) -> bool:
    """Download `url` to `target`, and return True if a part of the file came from an earlier download.

    If the download fails, the bytes received are kept in `target.part` for the next one. A host that is slower than
    `SLOW_RATE` raises `TooSlow`, unless `patient` is set.
    """
    files.make_folder(target.parent)
    part = target.with_name(target.name + ".part")
    from_earlier = _size(part)  # bytes
    reason = ""
    for _ in range(TRIES):
        before = _size(part)
        try:
            from_earlier = min(from_earlier, _transfer(url, part, patient, quiet))
            part.replace(target)
            return from_earlier > 0
        except requests.HTTPError as error:
            raise CifarlabError(f"the host answers {one_line(error)}") from error
        except requests.RequestException as error:
            reason = _reason(error)
            if _size(part) <= before:  # nothing was received: another try would not help
                break
        except OSError as error:
            raise CifarlabError(f"cannot write {part}: {error.strerror}" if error.errno else str(error)) from error
        except ValueError as error:  # some invalid addresses reach the libraries below requests
            raise CifarlabError(f"{url} cannot be fetched ({one_line(error)})") from error
    raise (CifarlabError if _size(part) else Unreachable)(reason)


def npm_url(package: str) -> str:
    """Return the address of an npm package's archive, in the registry that npm is configured for."""
    if (npm := shutil.which("npm")) is None:
        raise Unreachable("npm is not installed")
    command = [npm, "view", package, "dist.tarball", "--json", "--fetch-retries=0"]
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as errors:  # a hanging npm may keep pipes open
        try:
            status = subprocess.run(command, stdout=answer, stderr=errors, timeout=NPM_SECONDS).returncode
            texts = [(file.seek(0), file.read().decode(errors="replace"))[1] for file in (answer, errors)]
            if status:
                lines = [line for line in texts[1].splitlines() if line and not line.lower().startswith("npm warn")]
                kind = Unreachable if re.search("ENOTFOUND|EAI_|ECONN|ENET|TIMEDOUT", texts[1]) else CifarlabError
                raise kind(f"npm fails: {lines[0] if lines else 'no answer'}")
            if not isinstance(address := json.loads(texts[0]), str):
                raise ValueError(f"{address!r} is not an address")
            return address
        except subprocess.TimeoutExpired as error:
            raise Unreachable(f"npm gives no answer within {NPM_SECONDS:.0f} s") from error
        except (OSError, ValueError) as error:
            raise CifarlabError(f"npm fails: {one_line(error)}") from error


def file_name(url: str) -> str:
    """Return the file name at the end of a URL's path, or `archive` if the path ends in a slash."""
    return url.partition("?")[0].rpartition("/")[2] or "archive"


def _transfer(url: str, part: Path, patient: bool, quiet: bool) -> int:
    """Complete the file `part`, and return how many of its bytes an earlier try received."""
    start = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=(CONNECT_SECONDS, STALL_SECONDS)) as response:
        encoded = "Content-Encoding" in response.headers  # although not asked for; sizes are then not the file's
        if start and (response.status_code == 416 or (response.status_code == 206 and encoded)):
            part.unlink()  # the part is as long as the file or longer, or cannot be continued: start over
            return _transfer(url, part, patient, quiet)
        response.raise_for_status()
        if response.status_code != 206:  # the host sends the whole file
            start = 0
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() and not encoded else None
        progress = task(str(urlsplit(url).hostname), total, quiet=quiet, already_done=start)
        with part.open("ab" if start else "wb") as file, progress as shown:
            began = window_began = time.monotonic()
            received = window_bytes = 0
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                received += len(chunk)
                if start + received > LARGEST:
                    break
                window_bytes += len(chunk)
                now = time.monotonic()
                shown.advance(len(chunk), partial("{:.1f} MB/s".format, received / 1e6 / max(now - began, 1e-3)))
                if now - window_began >= SLOW_SECONDS:
                    if not patient and window_bytes / (now - window_began) < SLOW_RATE:
                        raise TooSlow(f"only {window_bytes / (now - window_began) / 1000:.0f} kB/s")
                    window_began, window_bytes = now, 0
    if _size(part) > LARGEST:
        part.unlink()
        raise CifarlabError(f"the host sends more than {LARGEST:,} bytes, far more than CIFAR-10 has")
    if total is not None and _size(part) < total:
        raise requests.ConnectionError(f"cut after {_size(part):,} of {total:,} bytes")
    return start


class TooSlow(CifarlabError):
    """Raised when a host is so slow that another source should be tried first."""


class Unreachable(CifarlabError):
    """Raised when nothing answers, as without a network."""


def _reason(error: requests.RequestException) -> str:
    """Return the cause of a failed download in a few words."""
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {CONNECT_SECONDS:.0f} s"
    cause = error.args[0] if error.args else error
    for name in ("reason", "original_error"):  # requests' own text begins with the whole address
        cause = getattr(cause, name, cause)
    text = one_line(cause)
    text = text.partition("): ")[2] or text
    if isinstance(error, requests.Timeout) or "Read timed out" in text:
        return f"stalled for {STALL_SECONDS:.0f} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection was cut"
    if "resolve" in text or "Name or service not known" in text:
        return "the host's name cannot be resolved (no network?)"
    return shorten(text, 120)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
