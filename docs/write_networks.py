"""Write docs/reference/networks.md from the networks, the recipes and the records under docs/results/.

`--print` prints the page instead.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cifarlab import recipes
from cifarlab.experiments.results.records import HonestRow, honest_rows, read_records
from cifarlab.models import build_model, model_names
from cifarlab.models.summary import count_macs, count_parameters
from cifarlab.recipes import Recipe

DOCS = Path(__file__).parent
HEAD = """# Networks

```sh
cifarlab summary resnet20   # the layers
cifarlab model resnet20     # the code
cifarlab train resnet20     # the recipe of the same name, where there is one
```

The networks in the order of their multiply-adds for one image of 32x32 pixels, with ten classes. Accuracies are in
percent, on the test images of CIFAR-10; a recipe of another name than the network's is named.

- **Published** is the highest figure of the recipe's authors. Most looked at the test images while training.
- **Ours** is measured under the honest protocol: trained on 45,000 images, validated on 5,000, tested once. It is a
  mean over n seeds. [Results](../results.md) says which runs stopped early and has the settings of `lenet5`;
  [Speed](../internals/speed.md) has the results of `fastnet`.
- A dash means that there is no figure, or that the network was not trained here.

This page is written by `make docs`; do not edit it here.
"""
TITLES = ("network", "parameters", "multiply-adds", "published", "source", "ours")


def row(name: str, macs: int, made: list[Recipe], ours: dict[str, HonestRow]) -> str:
    """Return the line of one network with the results of its recipes."""
    published, tested = [], []
    for recipe in made:
        named = [] if recipe.name == name else [f"`{recipe.name}`"]
        if recipe.published:
            published.append(cell(max(result.accuracy for result in recipe.published), named))
        if result := ours.get(recipe.name):
            tested.append(cell(result.accuracy.mean, [*named, f"n = {result.accuracy.n}"]))
    sources = {result.source: None for recipe in made for result in recipe.published if result.source}
    parameters = count_parameters(build_model(name))
    texts = (", ".join(parts) or "-" for parts in (published, sources, tested))
    return " | ".join([f"| `{name}`", f"{parameters:,}", f"{macs:,}", *texts]) + " |"


def cell(accuracy: float, notes: list[str]) -> str:
    """Return an accuracy in percent, with notes in brackets."""
    return f"{100 * accuracy:.2f}" + (f" ({', '.join(notes)})" if notes else "")


def page() -> str:
    """Return the text of the page."""
    records = [record for path in sorted((DOCS / "results").glob("*.json")) for record in read_records(path)]
    ours = {result.recipe: result for result in honest_rows(records)}
    by_network: dict[str, list[Recipe]] = {}
    for recipe in map(recipes.load, recipes.names()):
        if not recipe.drop and not recipe.merge:  # fewer classes are another task
            by_network.setdefault(recipe.model, []).append(recipe)
    macs = {name: count_macs(build_model(name)) for name in model_names()}
    lines = [f"| {' | '.join(TITLES)} |", "| --- | ---: | ---: | --- | --- | --- |"]
    lines += [
        row(name, macs[name], by_network.get(name, []), ours) for name in sorted(macs, key=lambda name: macs[name])
    ]
    return "\n".join([HEAD, *lines, ""])


if __name__ == "__main__":
    if "--print" in sys.argv:
        print(page(), end="")
    else:
        (DOCS / "reference" / "networks.md").write_text(page())
