"""Which cells: a condition on the columns of a table, read without running any code.

Python's grammar, of which only comparisons, arithmetic, ``and``, ``or``, ``not`` and ``in`` are
known here: nothing is called, no attribute is looked up, and no text is given to an interpreter.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attrscore.errors import ConfigError, did_you_mean

_PREFIX = "Metadata_"

Compiled = Callable[[pd.DataFrame], Any]

_COMPARE: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}


@dataclass(frozen=True)
class Condition:
    """A condition on the columns of a table, such as ``area > 200 and not touches_border``.

    Columns go by their names, with or without ``Metadata_``; a name that is no Python name stands
    in backquotes: ```Metadata_Cell count` > 3``. Texts stand in quotes, lists in brackets:
    ``Well in ['A01', 'A02']``. A column of text put beside a number is read as numbers where all
    of it can be. A missing value is unlike every other and in no list.

    :raises ConfigError: not a condition of this kind; raised when it is made.
    """

    text: str
    option: str = "where"
    """What the user calls it."""

    def __post_init__(self) -> None:
        try:
            self._compiled(self._parsed[0])
        except RecursionError as error:
            raise ConfigError(f"{self.option} is nested too deeply to be read.") from error

    def __call__(self, table: pd.DataFrame, /) -> NDArray[np.bool_]:
        """(n,) which rows of a table it holds for.

        :raises ConfigError: a name that is no column, or a comparison of text with numbers.
        """
        # numbers may overflow or divide by 0 without that being an error
        with np.errstate(all="ignore"):
            found = self._truth(self._parsed[0])(table)
        return np.broadcast_to(found, len(table)).copy()

    @cached_property
    def _parsed(self) -> tuple[ast.expr, dict[str, str]]:
        """The expression, and the columns in backquotes by the names that stand for them in it."""
        quoted: dict[str, str] = {}

        def name(found: re.Match[str]) -> str:
            quoted[f"_quoted_column_{len(quoted)}"] = found[1]
            return f"_quoted_column_{len(quoted) - 1}"

        try:
            text = re.sub(r"`([^`]+)`", name, self.text).strip()
            return ast.parse(text, mode="eval").body, quoted
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            raise ConfigError(
                f"{self.option}={self.text!r} is no expression: "
                f"{getattr(error, 'msg', None) or type(error).__name__}; write one such as "
                "'area > 200 and not touches_border'."
            ) from error

    def _compiled(self, node: ast.expr) -> Compiled:
        """What gives the value of an expression for a table: a column, or one for all rows."""
        match node:
            case ast.Constant(value=bool() | int() | float() | str() as value):
                return lambda _table: value
            case ast.Name(id=name):
                column = self._parsed[1].get(name, name)
                return lambda table: self._column(column, table)
            case ast.BoolOp(op=op, values=values):
                both = np.logical_and if isinstance(op, ast.And) else np.logical_or
                return _joined(both, [self._truth(each) for each in values])
            case ast.UnaryOp(op=ast.Not(), operand=inner):
                held = self._truth(inner)
                return lambda table: ~held(table)
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                return self._pair(operator.sub, ast.Constant(0), inner)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return self._pair(_ARITHMETIC[type(op)], left, right)
            case ast.Compare(left=left, ops=[ast.In() | ast.NotIn() as op], comparators=[items]):
                return self._among(left, items, wanted=isinstance(op, ast.In))
            case ast.Compare(left=left, ops=ops, comparators=right) if {
                type(op) for op in ops
            } <= _COMPARE.keys():
                chain = zip([left, *right], ops, right, strict=False)
                pairs = [self._pair(_COMPARE[type(op)], a, b) for a, op, b in chain]
                return _joined(np.logical_and, pairs)
        what = {
            ast.Call: "calls something",
            ast.Attribute: "looks an attribute up",
            ast.Subscript: "takes an item of something",
        }.get(type(node), "holds what is not known here")
        raise ConfigError(
            f"{self.option}={self.text!r} {what}: {ast.unparse(node)}. Only names of columns, "
            "numbers, quoted text and comparisons, + - * / %, and, or, not, in can stand in it."
        )

    def _among(self, left: ast.expr, items: ast.expr, *, wanted: bool) -> Compiled:
        value = self._compiled(left)
        try:
            listed = [*ast.literal_eval(items)] if isinstance(items, ast.List | ast.Tuple) else None
        except ValueError:
            listed = None
        if listed is None or not all(isinstance(e, bool | int | float | str) for e in listed):
            raise ConfigError(
                f"{self.option}={self.text!r}: what follows 'in' must be a list of values, such as "
                "Well in ['A01', 'A02']."
            )
        numbers = bool(listed) and not any(isinstance(each, str) for each in listed)

        def found(table: pd.DataFrame) -> NDArray[np.bool_]:
            values = _as_numbers(value(table)) if numbers else value(table)
            among = pd.Series(values, table.index).isin(listed).to_numpy()
            return among if wanted else ~among

        return found

    def _pair(
        self, function: Callable[[Any, Any], Any], left: ast.expr, right: ast.expr
    ) -> Compiled:
        sides = self._compiled(left), self._compiled(right)
        counting = function in _ARITHMETIC.values()

        def applied(table: pd.DataFrame) -> Any:
            values = [side(table) for side in sides]
            if "a number" in map(_kind, values):
                values = [_as_numbers(value) for value in values]
            kinds = [_kind(value) for value in values]
            if {"text", "a number"} <= {*kinds} or ("text" in kinds and counting):
                raise ConfigError(
                    f"{self.option}={self.text!r} puts {self._source(left)}, which is {kinds[0]}, "
                    f"beside {self._source(right)}, which is {kinds[1]}; text stands in quotes, "
                    "and numbers do not."
                )
            if "text" in kinds:
                return _compare_texts(function, *values)
            return function(
                *(np.asarray(v, float) if counting or _is_mixed(v) else v for v in values)
            )

        return applied

    def _truth(self, node: ast.expr) -> Compiled:
        inner = self._compiled(node)

        def held(table: pd.DataFrame) -> NDArray[np.bool_]:
            value = inner(table)
            if _is_mixed(value) and all(each is None or isinstance(each, bool) for each in value):
                value = np.array([each is True for each in value])  # a missing one does not hold
            if np.asarray(value).dtype.kind != "b":
                raise ConfigError(
                    f"{self.option}={self.text!r} takes {self._source(node)} for a condition, but "
                    f"it is {_kind(value)}; compare it with something."
                )
            return np.asarray(value)

        return held

    def _column(self, name: str, table: pd.DataFrame) -> NDArray[Any]:
        """As numbers, or else as objects of which None is missing."""
        known = next((each for each in (name, _PREFIX + name) if each in table.columns), None)
        if known is None:
            shown = [str(each).removeprefix(_PREFIX) for each in table.columns]
            raise ConfigError(
                f"{self.option}={self.text!r}: there is no column {name!r}. "
                f"{did_you_mean(name, shown)}"
            )
        column = table[known]
        if isinstance(column.dtype, np.dtype) and column.dtype.kind in "buif":
            return column.to_numpy()
        return column.astype(object).where(column.notna(), None).to_numpy()

    def _source(self, node: ast.expr) -> str:
        text = ast.unparse(node)
        for name, quoted in self._parsed[1].items():
            text = text.replace(name, f"`{quoted}`")
        return text


def _joined(function: Callable[[Any, Any], Any], each: list[Compiled]) -> Compiled:
    return lambda table: reduce(function, [one(table) for one in each])


def _is_mixed(value: Any) -> bool:
    """Whether anything may stand in it, as texts and missing values do."""
    return isinstance(value, np.ndarray) and value.dtype.kind == "O"


def _kind(value: Any) -> str:
    """``text``, ``a number``, or ``missing``: a column in which nothing stands."""
    if _is_mixed(value):
        if any(isinstance(each, str) for each in value):
            return "text"
        return "missing" if all(each is None for each in value) else "a number"
    return "text" if isinstance(value, str) else "a number"


def _as_numbers(value: Any) -> Any:
    """A column of text as numbers, where each that is not missing is one; else as it is."""
    if not _is_mixed(value) or _kind(value) != "text":
        return value
    numbers = pd.to_numeric(pd.Series(value), errors="coerce")
    missing = np.array([each is None for each in value])
    return numbers.to_numpy(float) if (numbers.notna() | missing).all() else value


def _compare_texts(function: Callable[[Any, Any], Any], *values: Any) -> NDArray[np.bool_]:
    """Only texts have an order; what is missing is unlike everything."""
    pairs = np.broadcast(*(np.asarray(value, object) for value in values))
    missing = function is operator.ne
    found = [
        function(a, b) if isinstance(a, str) and isinstance(b, str) else missing for a, b in pairs
    ]
    return np.array(found, bool).reshape(pairs.shape)
