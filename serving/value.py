"""What a candidate is worth: a formula over the model's probabilities and the items' numbers."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeAlias

import tensorflow as tf

from models.features import BucketedFeature, Feature, NumberFeature
from models.section import UserError
from models.tasks import TaskConfig, outputs

_OPERATORS: dict[type, Callable] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: tf.pow,
}
_FUNCTIONS: dict[str, Callable] = {
    "log": tf.math.log,
    "exp": tf.exp,
    "sqrt": tf.sqrt,
    "min": tf.minimum,
    "max": tf.maximum,
}
_ARGUMENTS = {"log": 1, "exp": 1, "sqrt": 1, "min": 2, "max": 2}

Number: TypeAlias = "tf.Tensor | float"


class ValueFormula:
    """Arithmetic such as 'pctcvr * price' or 'pctr + 20 * pctcvr * min(price, 100)'.

    Names are outputs of the model and raw number features of the items; there are + - * / **, log, exp, sqrt, min, max.

    Args:
      text: the formula.
      names: names that it may use.

    Raises:
      UserError: naming the formula and what is wrong in it.
    """

    def __init__(self, text: str, names: Collection[str]):
        self.text = text
        self._names = sorted(names)
        try:
            self._tree = ast.parse(text, mode="eval").body
        except SyntaxError as error:
            raise UserError(f"serving.value: '{text}' is no formula: {error.msg}") from None
        self.used = {node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name)} - set(_FUNCTIONS)
        self._check(self._tree)

    def __call__(self, values: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """The value [N] of each candidate, from float32 [N] by name; a missing number counts as 0."""
        known = {
            name: tf.where(tf.math.is_nan(v), tf.zeros_like(v), v) for name, v in values.items() if name in self.used
        }
        like = next(iter(values.values()))
        return tf.zeros_like(like) + self._evaluate(self._tree, known)

    def _check(self, node: ast.AST) -> None:
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            parts: list[ast.AST] = [node.left, node.right]
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            parts = [node.operand]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            parts = list(node.args)
            wanted = _ARGUMENTS.get(node.func.id)
            if wanted != len(parts):
                raise self._wrong(f"{node.func.id} of {len(parts)}, expected {', '.join(sorted(_FUNCTIONS))}")
        elif isinstance(node, ast.Name):
            parts = []
            if node.id not in self._names:
                raise self._wrong(f"'{node.id}', expected one of {', '.join(self._names)}")
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
            parts = []
        else:
            raise self._wrong(f"'{ast.unparse(node)}', expected numbers, names, + - * / ** and functions of them")
        for part in parts:
            self._check(part)

    def _wrong(self, what: str) -> UserError:
        return UserError(f"serving.value: '{self.text}' has {what}")

    def _evaluate(self, node: Any, values: Mapping[str, tf.Tensor]) -> Number:
        if isinstance(node, ast.BinOp):
            return _OPERATORS[type(node.op)](self._evaluate(node.left, values), self._evaluate(node.right, values))
        if isinstance(node, ast.UnaryOp):
            return -self._evaluate(node.operand, values)
        if isinstance(node, ast.Call):
            return _FUNCTIONS[node.func.id](*(self._evaluate(a, values) for a in node.args))  # type: ignore[attr-defined]
        return values[node.id] if isinstance(node, ast.Name) else float(node.value)


def value_formula(text: str | None, features: tuple[Feature, ...], tasks: tuple[TaskConfig, ...]) -> ValueFormula:
    """The configuration's formula; by default the last joint probability, times the item's price if there is one."""
    numbers = [f.name for f in features if isinstance(f, (NumberFeature, BucketedFeature)) and f.side == "item"]
    probabilities = [o.name for o in outputs(tasks)]
    default = f"{probabilities[-1]} * price" if "price" in numbers else probabilities[-1]
    return ValueFormula(text or default, [*probabilities, *numbers])
