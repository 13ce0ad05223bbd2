"""`cifarlab recipes` and `cifarlab recipe`: list the recipes, print one."""

import typer

from cifarlab.cli.options import RecipeName
from cifarlab.cli.output import AsJson, as_json, percent, table


def recipes(json: AsJson = False) -> None:
    """List the recipes with the accuracies published for them."""
    from cifarlab.recipes import load, names

    loaded = [load(name) for name in names()]
    if json:
        keys = ("name", "model", "epochs", "published")
        as_json([{key: recipe.model_dump(mode="json")[key] for key in keys} for recipe in loaded])
        return
    cells = []
    for recipe in loaded:
        published = ", ".join(f"{percent(figure.accuracy)} ({figure.epochs} ep.)" for figure in recipe.published)
        cells.append((recipe.name, recipe.model, recipe.epochs, published or "-"))
    table(("name", "model", "epochs", "published accuracy"), cells, ("epochs",))
    typer.echo("Print one with: cifarlab recipe NAME. Train it with: cifarlab train NAME")
    typer.echo("Estimate its time on this machine with: cifarlab train NAME --dry-run")


def recipe(name: RecipeName, json: AsJson = False) -> None:
    """Print the TOML file of a recipe, to copy and change."""
    from cifarlab.recipes.loading import find, load

    loaded = load(name)
    if json:
        as_json(loaded.model_dump(mode="json"))
    else:
        typer.echo(find(name).read_text(encoding="utf-8-sig").rstrip())
