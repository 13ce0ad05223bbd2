"""Read content from elsewhere in a child process, with limits on its time and memory.

Libraries that decode large formats loop for ever, take any amount of memory, or crash on some damaged or forged files.
"""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from cifarlab.errors import UsageError, one_line

CHILD = Path(__file__).with_name("child.py")
MIN_SECONDS = 20  # time limit for small files; on a busy machine the child takes a few seconds to start
MIN_BYTES_PER_SECOND = 2**24  # a twentieth of the usual speed
LIBRARY_MEMORY = 2 * 2**30  # bytes of address space, more than the libraries take by themselves
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}  # the others take address space


def read_limited(reader: Path, content: bytes, *arguments: Any, most_bytes: int) -> tuple[Any, list[memoryview]]:
    """Call `read(content, *arguments)` of a Python file in a child process; return its JSON document and binary parts.

    The file imports nothing of this package, and the arguments are JSON. The child may take `most_bytes` of memory
    beside the content and the libraries. Raises UsageError if reading fails, crashes, or needs more time or memory.
    """
    memory = LIBRARY_MEMORY + 2 * len(content) + most_bytes
    seconds = MIN_SECONDS + len(content) // MIN_BYTES_PER_SECOND
    command = [sys.executable, "-P", str(CHILD), str(reader), str(memory), str(seconds), json.dumps(arguments)]
    environment = os.environ | ENVIRONMENT
    try:
        ended = subprocess.run(command, input=content, capture_output=True, timeout=seconds, env=environment)
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"reading it takes more than {seconds} seconds") from error
    header, _, rest = ended.stdout.partition(b"\n")
    try:
        answer = json.loads(header)
    except ValueError as error:
        message = ended.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"status {ended.returncode}"]
        raise UsageError(f"the library fails on it ({one_line(message[0])[:200]})") from error
    if "error" in answer:
        raise UsageError(one_line(answer["error"])[:300])
    ends = list(itertools.accumulate(answer["sizes"], initial=0))
    return answer["document"], [memoryview(rest)[start:end] for start, end in itertools.pairwise(ends)]
