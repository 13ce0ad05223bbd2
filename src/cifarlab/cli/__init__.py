"""The command line: it parses arguments, calls the package and prints results.

Every command is a function in the file of its name; heavy packages are imported inside it, so that `--help` is quick.
Results go to stdout, progress and errors to stderr. `--json` prints exactly one JSON document on stdout.
"""

import ast
import errno
import inspect
import os
import shlex
import sys
import time
import traceback
from collections.abc import Callable
from typing import cast

import typer
from typer.main import get_command

from cifarlab import __version__
from cifarlab.cli import bench, board, compare, data, doctor, evaluate, export, identify, import_, lr_find

# isort: split
from cifarlab.cli import models, predict, recipes, report, reproduce, rerun, resume, runs, serve, study, train, tune
from cifarlab.cli.options import command_line
from cifarlab.errors import (
    CifarlabError,
    Interrupted,
    UntrustedFile,
    UsageError,
    in_plain_words,
    is_out_of_memory,
    meant,
    one_line,
    readable,
)
from cifarlab.files import with_home
from cifarlab.parallel import torchrun

PROGRAM = "cifarlab"

GROUPS: dict[str, tuple[Callable[..., None], ...]] = {  # the commands under the headings of `cifarlab --help`
    "Train": (train.train, resume.resume, tune.tune, lr_find.lr_find),
    "Look": (
        runs.runs,
        report.report,
        report.verify,
        models.models,
        models.model,
        models.summary,
        recipes.recipes,
        recipes.recipe,
        bench.bench,
        doctor.doctor,
    ),
    "Use": (evaluate.evaluate, predict.predict, export.export, import_.import_, identify.identify),
    "Compare": (compare.compare, study.study, reproduce.reproduce, rerun.rerun),
    "Data": (),  # a group of commands of its own
    "Serve": (board.board, serve.serve),
}

app = typer.Typer(
    name=PROGRAM,
    help="Train classifiers of small images, CIFAR-10 first, and see what they get wrong.",
    epilog="Begin with: cifarlab train",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

for group, commands in GROUPS.items():
    for command in commands:
        name = command.__name__.rstrip("_").replace("_", "-")  # `import_` is `import`, `lr_find` is `lr-find`
        app.command(name, rich_help_panel=group)(command)
app.add_typer(data.app, name="data", rich_help_panel="Data")
if sys.flags.optimize > 1:  # -OO removes docstrings, which are the help
    for info in (*app.registered_commands, *data.app.registered_commands):
        source = ast.parse(inspect.getsource(cast(Callable[..., None], info.callback)))
        info.help = ast.get_docstring(cast(ast.FunctionDef, source.body[0]))


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"cifarlab {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
    ),
    debug: bool = typer.Option(False, "--debug", help="Print the traceback of an error, too."),
) -> None:
    """Declare the options that stand before the command."""


SHARED = ("train", "resume")  # commands that several processes carry out together
SECONDS_FOR_RANK_0 = 3.0  # to print an error that all processes raise, before the first of them ends


def main() -> None:
    """Run the command line and end the process with the exit status."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the process was started with the stream closed
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (to the end of the process)
        if hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="replace")  # a letter that the console lacks becomes "?"
    os.environ.pop("MPLBACKEND", None)  # a notebook's, for example, which other environments may not have
    os.environ["PYTHONSAFEPATH"] = "1"  # a random.py in the current folder is not for processes that are started
    if torchrun.is_launched() and os.environ["RANK"] != "0":
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (to the end of the process)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command, the words after `cifarlab`, in this process and return the exit status."""
    command_line.set(readable(shlex.join([PROGRAM, *arguments])))
    arguments = list(map(with_home, arguments))
    command_name = next((word for word in arguments if not word.startswith("-")), SHARED[0])
    try:
        if torchrun.is_launched() and command_name not in SHARED:
            raise UsageError(f"{command_name} runs in one process; torchrun is for {' and '.join(SHARED)}")
        status = get_command(app).main(arguments, prog_name=PROGRAM, standalone_mode=False)
        return status if isinstance(status, int) else 0
    except BrokenPipeError:  # the reader of the pipe has ended
        sys.stderr.close()
        return 1
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, UntrustedFile) and _is_trusted(error):
            return run(arguments)
        message, status = _describe(error)
        if "--debug" in arguments:
            traceback.print_exc()
        return _fail(error, message, status) if message else status


def _is_trusted(error: UntrustedFile) -> bool:
    """Ask on a terminal whether a Python file from elsewhere may be run."""
    if torchrun.is_launched() or not (sys.stdin and sys.stdin.isatty()):
        return False
    from cifarlab.models.own_networks import trust  # here, because `cifarlab --help` does without

    try:
        is_trusted = typer.confirm(f"{one_line(error)}\nRun {error.file} now, and remember it as trusted?", err=True)
    except typer.Abort:
        return False
    if is_trusted:
        trust(error.file)
    return is_trusted


def _describe(error: BaseException) -> tuple[str, int]:
    """Return the text and the exit status of an error; the text is empty if it is printed already."""
    match error:
        case CifarlabError():
            return str(error), error.status
        case KeyboardInterrupt() | typer.Abort():
            return "interrupted", 130
        case OSError(errno=errno.ENAMETOOLONG):
            return f"the name {str(error.filename)[:40]!r}… is too long", 2
        case OSError(errno=errno.ENOSPC, filename=None):
            return "cannot print the results: no space left on device. What a command wrote is in its folder.", 1
        case OSError():
            return str(error), 1
        case typer.TyperException():  # from the parser; without arguments it has printed the help
            from cifarlab.recipes.recipe import keys  # here, because `cifarlab --help` does without

            context, message = getattr(error, "ctx", None), in_plain_words(error.format_message().rstrip("."))
            if message.startswith("Missing") and (text := getattr(getattr(error, "param", None), "help", "")):
                message += f": {text.rstrip('.')}"
            has_keys = context and any(parameter.name == "set_" for parameter in context.command.params)
            if has_keys and (key := meant(getattr(error, "option_name", "")[2:], keys())):
                message = f"{message.partition(' (')[0]}: write --set {key}=VALUE"
            return message + (f" (see {context.command_path} --help)" if message and context else ""), error.exit_code
    if is_out_of_memory(error):
        return "not enough memory", 1
    return f"this is a fault of cifarlab ({type(error).__name__}: {one_line(error)}); --debug shows where", 1


def _fail(error: BaseException, message: str, status: int) -> int:
    """Print an error and return the exit status. Of several processes, rank 0 prints what all of them raise."""
    heading = "" if isinstance(error, Interrupted | KeyboardInterrupt | typer.Abort) else "error: "
    if not torchrun.is_launched():
        typer.echo(f"{heading}{one_line(message)}", err=True)
        return status
    rank = os.environ["RANK"]
    torchrun.ignore_termination()  # torchrun ends all processes as soon as one of them has ended
    if not (status == UsageError.status or getattr(error, "on_all_ranks", False)):
        typer.echo(f"{heading}process {rank}: {one_line(message)}", err=True)
    elif rank == "0":
        typer.echo(f"{heading}{one_line(message)}", err=True)
    else:
        time.sleep(SECONDS_FOR_RANK_0)
    # With any other status torchrun would start again what somebody has stopped.
    return 0 if isinstance(error, Interrupted) and torchrun.has_restarts_left() else status
