"""`cifarlab recipes` and `cifarlab recipe`: list the recipes, print one."""

import typer

from cifarlab.cli.options import RecipeName
from cifarlab.cli.output import AsJson, as_json, percent, table


def recipes(json: AsJson = False) -> None:
    """List the recipes of this package, and those of published results with their accuracies."""
    from cifarlab.recipes import load, names

    loaded = [load(name) for name in names()]
    if json:
        keys = ("name", "model", "epochs", "published")
        as_json([{key: recipe.model_dump(mode="json")[key] for key in keys} for recipe in loaded])
        return
    typer.echo("Recipes:")
    without = [recipe for recipe in loaded if not recipe.published]
    described = [(recipe.name, recipe.model, recipe.epochs, recipe.description) for recipe in without]
    table(("name", "model", "epochs", "description"), described, ("epochs",))
    typer.echo("\nRecipes of published results:")
    cells = []
    for recipe in loaded:
        if recipe.published:
            accuracies = ", ".join(f"{percent(result.accuracy)} ({result.epochs} ep.)" for result in recipe.published)
            sources = ", ".join({result.source: None for result in recipe.published if result.source})
            cells.append((recipe.name, recipe.model, recipe.epochs, accuracies, sources))
    table(("name", "model", "epochs", "published accuracy", "source"), cells, ("epochs",))
    typer.echo("\nPrint one with: cifarlab recipe NAME. Train it with: cifarlab train NAME")
    typer.echo("Estimate its time on this machine with: cifarlab train NAME --dry-run")


def recipe(name: RecipeName, json: AsJson = False) -> None:
    """Print the TOML file of a recipe, to copy and change."""
    from cifarlab.recipes.loading import find, load

    loaded = load(name)
    if json:
        as_json(loaded.model_dump(mode="json"))
    else:
        typer.echo(find(name).read_text(encoding="utf-8-sig").rstrip())
