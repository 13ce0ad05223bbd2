"""The meaning of a recipe's keys, read from the docstrings below them, for the reference and for forms."""

import ast
import inspect

from pydantic import BaseModel


def docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstring below each field of a model, on one line."""
    body = ast.parse(inspect.getsource(model)).body[0]
    assert isinstance(body, ast.ClassDef)
    texts = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(field.target, ast.Name):
            texts[field.target.id] = " ".join(str(ast.literal_eval(below.value)).split())
    return texts
