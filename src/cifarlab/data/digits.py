"""scikit-learn's handwritten digits: 1,797 images that come with scikit-learn, for quick trials and tests."""

from importlib.metadata import distribution

import numpy as np

from cifarlab.data.dataset import Data, Dataset, sha256_of, split_off_test
from cifarlab.data.image_files import from_array
from cifarlab.data.published.description import Piece, PublishedData
from cifarlab.recipes import Resize

DIGITS = PublishedData(
    name="digits",
    title="Digits",
    about="Handwritten digits in gray of 8x8 pixels, which are enlarged; the copy in scikit-learn.",
    classes=tuple("0123456789"),
    shape=(1, 8, 8),
    same_if_mirrored=False,
    pieces=(Piece("train", 1438), Piece("test", 359, True)),
    licence="CC BY 4.0",
    citation="Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository",
    page="https://archive.ics.uci.edu/dataset/80",
)


def load_digits(name: str, size: int, quiet: bool = False, resize: Resize = "crop") -> Data:
    """Return the digits as gray images, with a fifth as the test set; `quiet` and `resize` have no effect."""
    # the file that sklearn.datasets.load_digits reads, because importing scikit-learn takes a second or two
    path = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    table = np.loadtxt(str(path), delimiter=",")  # [1797, 65]: 64 pixels from 0 to 16, then the label
    gray = (table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    images = from_array(gray, size)
    digits = Dataset(images, table[:, -1].astype(np.int64), DIGITS.classes)
    train, test = split_off_test(digits)
    return Data(name, train, test, sha256_of(train, test), "scikit-learn", "sklearn.datasets.load_digits")
