"""Every block of shell commands and Python in the pages runs, or stands here with the reason why it does not.

`test_guides.py` runs the blocks with a prompt. Here, `cifarlab train` in a shell checks everything, but trains nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from write_outputs import PAGES, prepare

from cifarlab.inference import weights

ROOT = Path(__file__).parents[2]
EVERY_PAGE = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
BLOCK = re.compile(r"^```(\S*)( title=[^\n]*)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = {  # beginnings of lines
    "make ": "makes an environment, which takes minutes and the network; CI runs it",
    "pip install": "downloads packages",
    "torchrun": "needs several GPUs or machines; tests/parallel runs it with two processes",
    "cifarlab tune lenet5 --space space.toml --trials 100 --storage postgresql": "needs a database server",
    "cifarlab reproduce": "trains for hours; tests/experiments/test_reproduce.py runs it with small recipes",
    "cifarlab resume": "needs an interrupted run; tests/training resumes some",
    "cifarlab data get --source": "needs an archive of 170 MB; tests/data/test_cifar10.py has small ones",
    "cifarlab compare 'plain-*'": "needs six trainings; the page's first block compares such runs",
    "cifarlab summary strided": "needs the network of the page; tests/docs/test_contributing.py adds it",
    "cifarlab train lenet5 --model strided": "needs the network of the page; tests/docs/test_contributing.py adds it",
    "CATALOGUE: dict": "is a part of a file, which tests/docs/test_contributing.py completes",
}
BEFORE = {  # Python that makes what a page's reader has
    "export": "import sklearn.datasets as d\nimages, labels = d.load_digits(return_X_y=True)\n"
    "images, labels = images.reshape(-1, 8, 8)[:300] * 15, labels[:300]\n",
    "import": "import cifarlab\n",
    "predict": "import subprocess\n"
    "subprocess.run('cifarlab predict model.safetensors digit.png --out answers.csv'.split(), check=True)\n",
}
COMMAND = f"""#!/bin/sh
[ "$1" != train ] || set -- "$@" --dry-run
exec {sys.executable} -m cifarlab "$@"
"""


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return language and code of the page's blocks without a prompt or a title."""
    return [(match[1], match[3]) for match in BLOCK.finditer(page.read_text()) if not match[2]]


def code_of(page: Path, language: str) -> str:
    """Return the code of all blocks in a language, without what is not run."""
    lines = [line for kind, code in blocks(page) if kind == language for line in code.replace("\\\n", "").splitlines()]
    if any(line.startswith("CATALOGUE") for line in lines):
        return ""
    return "".join(f"{line}\n" for line in lines if not line.startswith(tuple(NOT_RUN)))


def run(command: list[str], page: Path, folder: Path) -> None:
    """Run a command where the files are that the page's reader has."""
    prepare(page, folder)
    Image.new("L", (8, 8)).save(folder / "digit.png")
    shutil.copy(weights.path_of("keras4"), folder / "model.safetensors")
    (folder / "bin").mkdir()
    (folder / "bin" / "cifarlab").write_text(COMMAND)
    (folder / "bin" / "cifarlab").chmod(0o755)
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    variables = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT / "src"), "CIFARLAB_RUNS": str(folder / "runs")}
    ended = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in EVERY_PAGE if code_of(page, "sh")], ids=lambda page: page.stem)
def test_shell_commands_run(page: Path, tmp_path: Path) -> None:
    run(["bash", "-euc", code_of(page, "sh")], page, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in EVERY_PAGE if code_of(page, "python")], ids=lambda page: page.stem)
def test_python_runs(page: Path, tmp_path: Path) -> None:
    (tmp_path / "docs").symlink_to(ROOT / "docs")  # results.md reads the records
    if "photos.onnx" in code_of(page, "python"):
        export = "import cifarlab; cifarlab.export('pretrained:lenet5', 'photos.onnx')\n"
        code = export + BEFORE[page.stem] + code_of(page, "python")
    else:
        code = BEFORE.get(page.stem, "") + code_of(page, "python")
    run([sys.executable, "-c", code], page, tmp_path)


def test_every_block_has_a_known_language_and_few_lines_are_not_run() -> None:
    every = [block for page in EVERY_PAGE for block in blocks(page)]
    assert {language for language, _ in every} == {"console", "python", "sh", "text"}
    lines = [line for language, code in every if language in ("python", "sh") for line in code.splitlines()]
    for beginning, reason in NOT_RUN.items():
        assert reason and any(line.startswith(beginning) for line in lines), f"no page has {beginning}"
    assert sum(line.startswith(tuple(NOT_RUN)) for line in lines) < 0.3 * len(lines)
    with_a_prompt = [page for page in EVERY_PAGE if any(language == "console" for language, _ in blocks(page))]
    assert with_a_prompt and set(with_a_prompt) <= set(PAGES)
