"""The child process of `limited`: bytes in, a line of JSON and the binary parts of the answer out.

It runs as a script and imports nothing of the package.
"""

import contextlib
import json
import runpy
import sys


def main(reader: str, memory: str, seconds: str, arguments: str) -> None:
    """Read the content on standard input and write the answer to standard output."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # not every system has limits or allows setting them
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))
        resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
    parts: list[bytes] = []
    try:
        document, parts = runpy.run_path(reader)["read"](sys.stdin.buffer.read(), *json.loads(arguments))
        answer = json.dumps({"document": document, "sizes": list(map(len, parts))}, default=str)
    except MemoryError:
        parts, answer = [], json.dumps({"error": "reading it takes far more memory than the file is large"})
    except Exception as error:  # libraries raise any kind for damaged files
        parts, answer = [], json.dumps({"error": f"{type(error).__name__}: {error}"})
    sys.stdout.buffer.write(answer.encode() + b"\n")
    for part in parts:
        sys.stdout.buffer.write(part)


if __name__ == "__main__":
    main(*sys.argv[1:])
