"""How whole numbers are typed: 1e3 is one, and 50.7 is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from cyclopts import CycloptsError, Parameter, Token


def whole_number(_: type, tokens: Sequence[Token]) -> int:
    """A count as it is typed: 1e3 is one, and 50.7 is none."""
    from decimal import Decimal, InvalidOperation

    typed = tokens[0].value
    try:
        value = Decimal(typed)
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or abs(value) >= 10**18 or value != int(value):
        raise CycloptsError(msg=f"{tokens[0].keyword} is a whole number, got {typed}")
    return int(value)


Whole = Annotated[int, Parameter(converter=whole_number)]
"""How counts are typed."""
