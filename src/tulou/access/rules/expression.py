"""The language of expressions over several properties of one entity, such as `temperature > 60 and abs(flow) < 0.5`.

Law: an expression is read once by Python's own parser, every node of it must be on the list below, and what remains is
arithmetic on columns: there is no name but a property's, no attribute, no index, no string, no call but `CALLS`, and no
power, so nothing it says can reach the house or grow without bound. Where a property is not known yet, the answer is
neither yes nor no.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tulou.kernel.packs import broken

LONGEST = 500
"""Characters in an expression."""
NODES = 200
"""Nodes of its tree."""

Columns = Mapping[str, NDArray[np.float64]]
_Compiled = Callable[[Columns], Any]

CALLS: dict[str, tuple[int, Callable[..., Any]]] = {
    "abs": (1, np.abs), "sqrt": (1, np.sqrt), "min": (2, np.minimum), "max": (2, np.maximum),
}
"""Functions: number of arguments, meaning."""
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply, ast.Div: np.true_divide, ast.Mod: np.mod,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


@dataclass(frozen=True)
class Expression:
    """A condition: `text`, the properties it names in their order, and what it says of their columns."""

    text: str
    properties: tuple[str, ...]
    _run: _Compiled

    def holds(self, columns: Columns) -> NDArray[np.bool_]:
        """Where it is true; false wherever a property is not known."""
        with np.errstate(all="ignore"):
            said = np.asarray(self._run(columns), bool)
        return said & self.known(columns)

    def known(self, columns: Columns) -> NDArray[np.bool_]:
        """Where every property has a value."""
        known: NDArray[np.bool_] = np.logical_and.reduce([~np.isnan(columns[name]) for name in self.properties])
        return known


def parse(text: str) -> Expression:
    """Read an expression. Raises `ValueError` naming what is not allowed."""
    if len(text) > LONGEST:
        raise broken("expression", f"表达式至多 {LONGEST} 个字符", f"an expression has at most {LONGEST} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        why = getattr(error, "msg", error)
        raise broken("expression", f"不是表达式：{why}", f"not an expression: {why}") from None
    if sum(1 for _ in ast.walk(tree)) > NODES:
        raise broken("expression", f"表达式至多 {NODES} 个部分", f"an expression has at most {NODES} parts")
    names: dict[str, None] = {}
    truth, run = _compile(tree, names)
    if not truth:
        raise broken("expression", "表达式应为条件，如 temperature > 60", "an expression must be a condition, such as temperature > 60")
    if not names:
        raise broken("expression", "表达式应含有属性", "an expression must name a property")
    return Expression(text.strip(), tuple(names), run)


def _compile(node: ast.expr, names: dict[str, None]) -> tuple[bool, _Compiled]:
    """Whether it is a condition (or else a number), and what computes it."""
    match node:
        case ast.BoolOp(op=op, values=values):
            parts = [_condition(value, names) for value in values]
            join = np.logical_and if isinstance(op, ast.And) else np.logical_or
            return True, lambda c: join.reduce([part(c) for part in parts])
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            inner = _condition(operand, names)
            return True, lambda c: np.logical_not(inner(c))
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as op, operand=operand):
            inner = _number(operand, names)
            return False, (lambda c: np.negative(inner(c))) if isinstance(op, ast.USub) else inner
        case ast.Compare(left=left, ops=ops, comparators=comparators) if all(type(op) in _COMPARE for op in ops):
            terms = [_number(term, names) for term in (left, *comparators)]
            tests = [_COMPARE[type(op)] for op in ops]

            def compare(c: Columns) -> Any:
                values = [term(c) for term in terms]
                return np.logical_and.reduce([t(a, b) for t, a, b in zip(tests, values, values[1:], strict=False)])

            return True, compare
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            first, second, combine = _number(left, names), _number(right, names), _BINARY[type(op)]
            return False, lambda c: combine(first(c), second(c))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in CALLS and len(args) == CALLS[name][0]:
            inputs, function = [_number(arg, names) for arg in args], CALLS[name][1]
            return False, lambda c: function(*[one(c) for one in inputs])
        case ast.Name(id=name) if name not in CALLS:
            names.setdefault(name)
            return False, lambda c: c[name]
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool) and abs(value) <= 1e300:
            return False, lambda c: np.float64(value)
    part = ast.unparse(node)[:60]
    raise broken("expression", f"表达式中不允许 {part}", f"not allowed in an expression: {part}")


def _condition(node: ast.expr, names: dict[str, None]) -> _Compiled:
    truth, run = _compile(node, names)
    if not truth:
        part = ast.unparse(node)[:60]
        raise broken("expression", f"{part} 应为条件", f"must be a condition: {part}")
    return run


def _number(node: ast.expr, names: dict[str, None]) -> _Compiled:
    truth, run = _compile(node, names)
    if truth:
        part = ast.unparse(node)[:60]
        raise broken("expression", f"{part} 应为数", f"must be a number: {part}")
    return run
