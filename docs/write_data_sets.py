"""Write docs/reference/data-sets.md from what the package knows of the published data sets.

`--print` prints the page instead.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cifarlab.data.catalogue import DESCRIPTIONS
from cifarlab.data.published.description import PublishedData, Source

DOCS = Path(__file__).parent
SEEN = ("cifar10", "mnist", "fashion-mnist", "digits")  # whose real files were loaded while they were added
MOST_CLASSES = 20  # that are named
HEAD = """# Data sets

```sh
cifarlab data list          # all of them, and which are in the cache
cifarlab data info digits   # sizes, classes, licence and checksum
```

`cifarlab train mnist` trains the recipe made for MNIST, and `cifarlab train resnet20 --data cifar100` another recipe on
a data set. Both download the data set first; `cifarlab data get mnist` does that alone. Whatever the images' size, a
network sees them at the `size` of its recipe, by default 32 pixels. [Your own pictures](../guides/own-pictures.md) have
a guide.

## Downloads

- Several sources are tried for four seconds each; the fastest goes on. `--source` names one, such as `npm`, a mirror's
  URL, or a file or folder. A URL that ends in a slash is a folder with the official files.
- Interrupted downloads continue where they stopped. Every file is compared with its checksum, and the cache with its
  SHA-256 sums whenever it is loaded.
- `cifarlab data get all --to stick` fills the folder `stick` for machines without a network: 3.3 GB of downloads, of
  which STL-10 is 2.6. There, `CIFARLAB_HOME=stick` uses it in place, and `cifarlab data get mnist --source stick`
  copies from it.
- `hub`, the Hugging Face hub, needs `pip install 'cifarlab[hf]'`.
"""


def page() -> str:
    """Return the text of the page."""
    return "\n".join([HEAD, *map(section, DESCRIPTIONS.values())])


def section(data: PublishedData) -> str:
    """Return the section on one data set."""
    channels, side = ("one channel" if data.shape[0] == 1 else "three channels"), data.size
    train = f"{data.train:,} training and " if data.train else ""
    names = ", ".join(data.classes) if len(data.classes) <= MOST_CLASSES else "fine labels; `data info` names them"
    lines = [
        f"## `{data.name}`\n",
        f"{data.about}\n",
        f"- **Images:** {train}{data.test:,} test images of {side}x{side} pixels and {channels}.",
        f"- **Classes:** {len(data.classes)}: {names}.",
        f"- **Licence:** {data.licence}.",
        f"- **Citation:** {data.citation}. [The authors' page]({data.page}).",
        f"- **Sources:** {'; '.join(map(described, data.sources)) or 'it comes with scikit-learn'}.",
    ]
    if data.superclasses:
        lines.append("- **Superclasses:** `evaluate` and reports also have the accuracy of superclasses.")
    if not data.train:
        lines.append(f"- **Use:** `cifarlab evaluate TARGET --data {data.name}`; it cannot be trained on.")
    if data.cache_name not in SEEN:
        lines.append("- **Tested** with small files in the published format; the real files were not at hand.")
    return "\n".join([*lines, ""])


def described(source: Source) -> str:
    """Return a source's name, what it has, and the size."""
    scheme, _, rest = source.urls[0].partition(":")
    packages = {"npm": f"the package `{rest}`", "debian": f"the Debian package `{rest}`"}
    names = " and ".join(f"`{url.rpartition('/')[2]}`" for url in source.urls[:2]) + ", …" * (len(source.urls) > 2)
    return f"`{source.name}`, {packages.get(scheme, names)} ({source.bytes / 1e6:,.0f} MB)"


if __name__ == "__main__":
    if "--print" in sys.argv:
        print(page(), end="")
    else:
        (DOCS / "reference" / "data-sets.md").write_text(page())
