"""Which cells: an expression over the columns of a table, read without running any code.

Python's grammar, of which only comparisons, arithmetic, ``and``, ``or``, ``not`` and ``in`` are
known here: nothing is called, no attribute is looked up, and no text is given to an interpreter.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd

from attrscore.errors import ConfigError, did_you_mean

__all__ = ["Expression"]

_PREFIX = "Metadata_"
_QUOTED = "_quoted_column_{}"

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
_ALLOWED = "comparisons, + - * / %, and, or, not, in"


@dataclass(frozen=True)
class Expression:
    """A condition on the columns of a table, such as ``area > 200 and not touches_border``.

    Columns go by their names, with or without ``Metadata_``; a name that is no Python name stands
    in backquotes: ```Metadata_Cell count` > 3``. Texts stand in quotes, lists in brackets:
    ``Well in ['A01', 'A02']``. A missing value is unlike every other and in no list.

    :raises ConfigError: not a condition of this kind; told when it is made.
    """

    text: str
    option: str = "where"
    """What the user calls it."""

    def __post_init__(self) -> None:
        try:
            _check(self._parsed(), self)
        except RecursionError as error:
            raise ConfigError(f"{self.option} is nested too deeply to be read.") from error

    def __call__(self, table: pd.DataFrame, /) -> np.ndarray[Any, Any]:
        """(n,) bool: which rows of a table it holds for.

        :raises ConfigError: a name that is no column, or a comparison of text with numbers.
        """
        # numbers may overflow or divide by 0 without that being an error
        with np.errstate(all="ignore"):
            found = self._of(self._parsed(), table)
        found = self._truth(found, self._parsed())
        return np.broadcast_to(np.asarray(found, bool), len(table)).copy()

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that it asks for, as written."""
        nodes = ast.walk(self._parsed())
        return tuple(dict.fromkeys(self._name(n) for n in nodes if isinstance(n, ast.Name)))

    def _parsed(self) -> ast.expr:
        text = self.text
        for number, quoted in enumerate(self._quoted):
            text = text.replace(f"`{quoted}`", _QUOTED.format(number), 1)
        try:
            return ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            raise ConfigError(
                f"{self.option}={self.text!r} is no expression: {_said(error)}; write one such as "
                "'area > 200 and not touches_border'."
            ) from error

    @property
    def _quoted(self) -> list[str]:
        return re.findall(r"`([^`]+)`", self.text)

    def _name(self, node: ast.Name) -> str:
        found = re.fullmatch(_QUOTED.format(r"(\d+)"), node.id)
        return self._quoted[int(found[1])] if found else node.id

    def _of(self, node: ast.expr, table: pd.DataFrame) -> Any:
        match node:
            case ast.BoolOp(op=op, values=values):
                both = operator.and_ if isinstance(op, ast.And) else operator.or_
                return reduce(both, [self._truth(self._of(v, table), v) for v in values])
            case ast.UnaryOp(op=ast.Not(), operand=inner):
                return ~self._truth(self._of(inner, table), inner)
            case ast.UnaryOp(operand=inner):
                return self._apply(operator.sub, ast.Constant(0), inner, table)
            case ast.BinOp(left=left, op=op, right=right):
                return self._apply(_ARITHMETIC[type(op)], left, right, table)
            case ast.Compare(left=left, ops=ops, comparators=right):
                chain = zip([left, *right], ops, right, strict=False)
                return reduce(operator.and_, (self._compare(a, op, b, table) for a, op, b in chain))
            case ast.Name():
                return self._column(self._name(node), table)
            case ast.List(elts=items) | ast.Tuple(elts=items):
                return [self._of(item, table) for item in items]
        return node.value  # type: ignore[attr-defined]  # a constant: all else was refused

    def _compare(self, left: ast.expr, op: ast.cmpop, right: ast.expr, table: pd.DataFrame) -> Any:
        if isinstance(op, ast.In | ast.NotIn):
            found = pd.Series(self._of(left, table), table.index).isin(self._of(right, table))
            return found.to_numpy() if isinstance(op, ast.In) else ~found.to_numpy()
        return self._apply(_COMPARE[type(op)], left, right, table)

    def _apply(
        self,
        function: Callable[[Any, Any], Any],
        left: ast.expr,
        right: ast.expr,
        table: pd.DataFrame,
    ) -> Any:
        values = [self._of(side, table) for side in (left, right)]
        kinds = [_kind(value) for value in values]
        counting = function in _ARITHMETIC.values()
        if len({*kinds} - {"missing"}) > 1 or ("text" in kinds and counting):
            raise ConfigError(
                f"{self.option}={self.text!r} puts {self._source(left)}, which is {kinds[0]}, "
                f"beside {self._source(right)}, which is {kinds[1]}; text stands in quotes, and "
                "numbers do not."
            )
        if "text" in kinds:
            return _compare_texts(function, *values)
        return function(*(np.asarray(v, float) if counting or _is_mixed(v) else v for v in values))

    def _truth(self, value: Any, node: ast.expr) -> Any:
        if np.asarray(value).dtype.kind == "b":
            return np.asarray(value)
        if _is_mixed(value) and {type(each) for each in value} <= {bool, float, type(None)}:
            return np.array([each is True for each in value])  # what is missing does not hold
        raise ConfigError(
            f"{self.option}={self.text!r} takes {self._source(node)} for a condition, but it is "
            f"{_kind(value)}; compare it with something."
        )

    def _column(self, name: str, table: pd.DataFrame) -> np.ndarray[Any, Any]:
        names = (name, _PREFIX + name)
        known = next((each for each in names if each in table.columns), None)
        if known is None:
            shown = [str(each).removeprefix(_PREFIX) for each in table.columns]
            raise ConfigError(
                f"{self.option}={self.text!r}: there is no column {name!r}. "
                f"{did_you_mean(name, shown)}"
            )
        column = table[known]
        return column.to_numpy(object if _kind(column) == "text" else None)

    def _source(self, node: ast.expr) -> str:
        text = ast.unparse(node)
        for number, quoted in enumerate(self._quoted):
            text = text.replace(_QUOTED.format(number), f"`{quoted}`")
        return text


def _check(node: ast.expr, expression: Expression) -> None:
    """Whether all of an expression is of the kind that is known here."""
    inner: Iterable[ast.expr] = ()
    match node:
        case ast.Name() | ast.Constant(value=bool() | int() | float() | str()):
            return
        case ast.BoolOp(values=inner):
            pass
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            inner = [operand]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            inner = [left, right]
        case ast.Compare(left=left, ops=ops, comparators=right):
            for how, each in zip(ops, right, strict=True):
                if isinstance(how, ast.In | ast.NotIn) and not _is_list(each):
                    raise ConfigError(
                        f"{expression.option}={expression.text!r}: what follows 'in' must be a "
                        "list of values, such as Well in ['A01', 'A02']."
                    )
                if not isinstance(how, ast.In | ast.NotIn) and type(how) not in _COMPARE:
                    _refuse(node, expression)
            inner = [left, *(item for each in right for item in _items(each))]
        case _:
            _refuse(node, expression)
    for each in inner:
        _check(each, expression)


def _refuse(node: ast.expr, expression: Expression) -> None:
    what = {
        ast.Call: "calls something",
        ast.Attribute: "looks an attribute up",
        ast.Subscript: "takes an item of something",
    }.get(type(node), "holds what is not known here")
    raise ConfigError(
        f"{expression.option}={expression.text!r} {what}: {ast.unparse(node)}. Only names of "
        f"columns, numbers, quoted text and {_ALLOWED} can stand in it."
    )


def _is_list(node: ast.expr) -> bool:
    return isinstance(node, ast.List | ast.Tuple) and all(
        isinstance(item, ast.Constant | ast.UnaryOp) for item in node.elts
    )


def _items(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.List | ast.Tuple) else [node]


def _kind(value: Any) -> str:
    """``text``, ``a number``, or ``missing``: a column in which nothing stands."""
    if isinstance(value, str):
        return "text"
    kind = getattr(value, "dtype", None)
    if isinstance(kind, pd.StringDtype | pd.CategoricalDtype):
        return "text"
    if _is_mixed(value):
        if any(isinstance(each, str) for each in value):
            return "text"
        return "missing" if pd.isna(value).all() else "a number"
    return "a number"


def _is_mixed(value: Any) -> bool:
    """Whether anything may stand in it, as texts and missing values do."""
    return isinstance(value, np.ndarray | pd.Series) and value.dtype.kind == "O"


def _compare_texts(function: Callable[[Any, Any], Any], *values: Any) -> np.ndarray[Any, Any]:
    """Only texts have an order; what is missing is unlike everything."""
    pairs = np.broadcast(*(np.asarray(value, object) for value in values))
    missing = function is operator.ne
    found = [
        function(a, b) if isinstance(a, str) and isinstance(b, str) else missing for a, b in pairs
    ]
    return np.array(found, bool).reshape(pairs.shape)


def _said(error: BaseException) -> str:
    return getattr(error, "msg", None) or type(error).__name__
