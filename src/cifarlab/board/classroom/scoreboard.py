"""The scoreboard of a class: students, their tries at the held-out images, and which differences are real.

It is kept in a file of the cache folder, one for each set of held-out images.
"""

import base64
import hashlib
import hmac
import secrets
import threading
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from unicodedata import category, normalize

import filelock
import numpy as np
from jaxtyping import Bool
from pydantic import BaseModel

from cifarlab import files
from cifarlab.board.answers import NotFoundError
from cifarlab.data.catalogue import absolute, load_data
from cifarlab.errors import CifarlabError, UsageError, shorten, validated
from cifarlab.statistics import significance

MOST_STUDENTS = 60
MOST_TRIES = 10  # of a student, unless the teacher chooses another number
KEY_BYTES = 9  # of randomness in a student's key
LONGEST_NAME = 40


class Try(BaseModel, frozen=True):
    """Weights that a student handed in, with their result on the held-out images."""

    when: str  # UTC time in ISO 8601
    sha256: str  # of the file
    model: str
    recipe: str
    images: int
    correct: str  # a bit for each image, packed, in base64
    answers_sha256: str = ""  # of the predicted labels; earlier versions did not keep it

    @property
    def is_correct(self) -> Bool[np.ndarray, " n"]:
        """True for each image that the weights classify correctly."""
        packed = np.frombuffer(base64.b64decode(self.correct), np.uint8)
        return np.unpackbits(packed, count=self.images).astype(bool)

    @property
    def accuracy(self) -> float:
        """Fraction of the held-out images that the weights classify correctly."""
        return float(self.is_correct.mean())


class Student(BaseModel, frozen=True):
    """A student, whom a key identifies."""

    name: str
    key_sha256: str
    tries: tuple[Try, ...] = ()

    @property
    def best(self) -> Try | None:
        """The try with the highest accuracy, the earliest of equal ones."""
        return max(self.tries, key=lambda each: each.accuracy, default=None)


class _File(BaseModel, frozen=True):
    students: tuple[Student, ...] = ()


@dataclass(frozen=True)
class Row:
    """A student's place on the scoreboard. Accuracies are fractions of 1."""

    name: str
    tries: int
    place: int | None = None  # 1 + the number of students who are better beyond chance; None without a try
    accuracy: float | None = None  # of the best try
    low: float | None = None  # ends of Wilson's 95 % interval
    high: float | None = None
    luck: float | None = None  # by how much the best of the tries is probably too high
    model: str = ""
    like_the_first: bool = False  # True if chance may explain the difference from the highest accuracy
    same_as: str = ""  # student who handed in weights with the same answers to all images before


class Classroom:
    """The held-out images of a class by name, and the students' tries at them."""

    def __init__(self, held_out: str, most_tries: int = MOST_TRIES) -> None:
        """Read the held-out images once: `held_out` is a folder of images, or the name of a data set."""
        self.data = absolute(f"folder:{held_out}" if Path(files.with_home(held_out)).is_dir() else held_out)
        self.most_tries = most_tries
        data = load_data(self.data, test_only=True, quiet=True)
        self.classes = data.classes
        parts = [data.test]
        if data.test_is_split_off:
            parts += [data.train] + ([] if data.validation is None else [data.validation])
        self.images = sum(map(len, parts))
        if not self.images:
            raise UsageError(
                f"--class {held_out}: has no images to evaluate on. Name a folder with a folder per class."
            )
        self.is_public = not self.data.startswith(("folder:", "csv:", "hf:", "npz:"))
        key = hashlib.sha256(f"{self.data} {data.sha256}".encode()).hexdigest()[:16]
        self.folder = files.cache_folder() / "classes" / key
        self._path = self.folder / "class.json"
        self._changing = threading.Lock()
        self._owner = filelock.FileLock(self.folder / ".lock", timeout=0, thread_local=False)
        self._rows: tuple[tuple[Student, ...], list[Row]] | None = None
        files.make_folder(self.folder)
        try:
            self._owner.acquire()
        except filelock.Timeout as error:
            raise CifarlabError("another board has this class open. Stop it first.") from error

    def close(self) -> None:
        """Let another board open this class."""
        self._owner.release()

    def students(self) -> tuple[Student, ...]:
        """Return the students in the order in which they joined."""
        if not self._path.exists():
            return ()
        return validated(_File, files.read_regular(self._path), f"{self._path} is damaged: move it away").students

    def join(self, name: str) -> str:
        """Add a student, and return the key with which only this student hands in."""
        name = normalize("NFC", " ".join(name.split()))
        is_plain = all(letter in " .'-" or category(letter)[0] in "LMN" for letter in name)
        if not (is_plain and name[:1].isalnum() and len(name) <= LONGEST_NAME):
            allowed = f"1 to {LONGEST_NAME} letters, digits, spaces and . ' -, beginning with a letter or digit"
            raise UsageError(f"the name must be {allowed}, got {shorten(name, 60)!r}")
        key = secrets.token_urlsafe(KEY_BYTES)
        with self._changing:
            students = self.students()
            if _compared(name) in [_compared(student.name) for student in students]:
                raise UsageError(
                    f"a student has the name {name!r} already, or a similar one. Choose another, or enter your key."
                )
            if len(students) >= MOST_STUDENTS:
                raise UsageError(f"the class is full: it has {MOST_STUDENTS} students")
            self._write((*students, Student(name=name, key_sha256=_sum(key))))
        return key

    def check(self, key: str) -> Student:
        """Return the student with this key."""
        for student in self.students():
            if hmac.compare_digest(student.key_sha256, _sum(key)):
                return student
        raise UsageError("no student has this key. Join with your name first, or ask your teacher.")

    def check_tries(self, student: Student) -> None:
        """Raise UsageError if a student has no try left."""
        if len(student.tries) >= self.most_tries:
            why = "Choosing the best of many tries on the same images makes it look better than it is."
            raise UsageError(f"all {self.most_tries} tries of {student.name} are used up. {why}")

    def add(self, key: str, result: Try) -> None:
        """Add a try of the student with this key."""
        if result.images != self.images:
            raise UsageError(
                f"the network was tested on {result.images} of the {self.images} held-out images, "
                "probably because it was trained on the others"
            )
        with self._changing:
            student = self.check(key)
            self.check_tries(student)
            changed = student.model_copy(update={"tries": (*student.tries, result)})
            self._write(tuple(changed if each == student else each for each in self.students()))

    def remove(self, name: str) -> None:
        """Remove a student with all tries."""
        with self._changing:
            students = self.students()
            if name not in [student.name for student in students]:
                raise NotFoundError(f"there is no student {shorten(name, 60)!r}")
            self._write(tuple(student for student in students if student.name != name))

    def rows(self) -> list[Row]:
        """Return the scoreboard, the highest accuracy first; computed again only if it has changed."""
        students = self.students()
        if self._rows is None or self._rows[0] != students:
            self._rows = students, scoreboard(students)
        return self._rows[1]

    def _write(self, students: tuple[Student, ...]) -> None:
        files.write_bytes(self._path, _File(students=students).model_dump_json(indent=1).encode())


def scoreboard(students: tuple[Student, ...]) -> list[Row]:
    """Compare the best tries of all students pairwise by McNemar's test, corrected for choosing and for many pairs.

    Each p-value is multiplied by the number of pairs of tries that the two best ones were chosen from (Bonferroni),
    then all are corrected together (Holm). A place is 1 plus the number of students who are significantly better.
    """
    tested = [(student, best) for student in students if (best := student.best) is not None]
    tested.sort(key=lambda each: -each[1].accuracy)
    correct = [best.is_correct for _, best in tested]
    pairs = list(combinations(range(len(tested)), 2))  # the first of a pair has the higher accuracy
    p_values = [
        min(1.0, significance.mcnemar(correct[a], correct[b]).p * len(tested[a][0].tries) * len(tested[b][0].tries))
        for a, b in pairs
    ]
    real = {pair for pair, p in zip(pairs, significance.holm(p_values), strict=True) if p <= significance.LEVEL}
    rows = []
    for number, (student, best) in enumerate(tested):
        low, high = significance.accuracy_interval(int(correct[number].sum()), best.images)
        rows.append(
            Row(
                student.name,
                len(student.tries),
                1 + sum((better, number) in real for better in range(number)),
                best.accuracy,
                low,
                high,
                significance.best_of_single_runs([each.accuracy for each in student.tries], best.images),
                best.model,
                number > 0 and (0, number) not in real,
                _first_with_answers(best, students, student),
            )
        )
    return rows + [Row(student.name, 0) for student in students if not student.tries]


def _first_with_answers(best: Try, students: tuple[Student, ...], student: Student) -> str:
    """Return the name of another student who handed in weights with the same answers before; empty if there is none."""
    if not best.answers_sha256 or best.is_correct.all():  # weights without a mistake all have the same answers
        return ""
    same = [
        (each.when, other) for other in students for each in other.tries if each.answers_sha256 == best.answers_sha256
    ]
    _, first = min(same, key=lambda each: each[0])
    return "" if first == student else first.name


def _compared(name: str) -> str:
    """Return the letters and digits of a name, without case and width, so that names that look alike are equal."""
    return "".join(letter for letter in normalize("NFKC", name).casefold() if category(letter)[0] in "LMN")


def _sum(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
