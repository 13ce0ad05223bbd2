"""Write docs/reference/commands.md from the definitions of the commands; `--print` prints the page instead."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from cifarlab.cli import GROUPS, PROGRAM, app

HEAD = """# Commands

Every command that prints results takes `--json`. `cifarlab COMMAND --help` prints the same text in a terminal.
`cifarlab --install-completion` lets the Tab key complete commands, recipes and runs.
"""


def in_groups() -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """Yield every heading of `cifarlab --help` with the names and Click commands under it."""
    commands: dict[str, Any] = vars(get_command(app))["commands"]
    for group in GROUPS:
        members: list[tuple[str, Any]] = []
        for name, command in commands.items():
            if command.rich_help_panel == group:
                children = getattr(command, "commands", None)
                members += (
                    [(f"{name} {child}", children[child]) for child in children] if children else [(name, command)]
                )
        yield group, members


def section(name: str, command: Any) -> str:
    """Return the part of the page about one command."""
    context = command.make_context(f"{PROGRAM} {name}", [], resilient_parsing=True)
    records = filter(None, (parameter.get_help_record(context) for parameter in command.params))
    rows = [f"| {cell(f'`{spelling.strip()}`')} | {cell(meaning)} |" for spelling, meaning in records]
    table = "\n".join(["| argument or option | meaning |", "| --- | --- |", *rows])
    return f"### {name}\n\n{command.help}\n\n```text\n{command.get_usage(context).strip()}\n```\n\n{table}\n"


def cell(text: str) -> str:
    """Return a text as the cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    """Write or print the page."""
    parts = [HEAD]
    for group, members in in_groups():
        parts += [f"## {group}\n", *(section(name, command) for name, command in members)]
    page = "\n".join(parts)
    if "--print" in sys.argv:
        print(page, end="")
    else:
        (Path(__file__).parent / "reference" / "commands.md").write_text(page)


if __name__ == "__main__":
    main()
