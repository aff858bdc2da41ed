"""Options of the wrong type or range are refused in a sentence, and by the same rules everywhere."""

import math
from typing import Annotated, Literal

import numpy as np
import pytest

from dataset.options import Count, NonNegative, Positive, Range, Seed, Share, Size, check, checked

REFUSED = [
    (Size, 0, "x=0: must be a whole number of at least 1"),
    (Size, 1.5, "x=1.5: must be a whole number of at least 1"),
    (Size, True, "x=True: must be a whole number of at least 1"),
    (Size, "1", "x='1': must be a whole number of at least 1"),
    (Size, None, "x=None: must be a whole number"),
    (Size, 2**31, "x=2147483648: must be a whole number of at most 2147483647"),
    (Seed, 2**63, "x=9223372036854775808: must be a whole number of at most 4294967295"),
    (Count, -1, "x=-1: must be a whole number of at least 0"),
    (Positive, 0, "x=0: must be a number above 0"),
    (Positive, math.nan, "x=nan: must be a number above 0"),
    (Positive, math.inf, "x=inf: must be a number above 0"),
    (NonNegative, -math.inf, "x=-inf: must be a number of at least 0"),
    (NonNegative, 10**400, "must be a number of at most 1000000000"),
    (Share, 1.01, "x=1.01: must be a number from 0 to 1"),
    (Annotated[float, Range(0, 1, above=True)], 0, "x=0: must be a number above 0 and at most 1"),
    (float, "x", "x='x': must be a number"),
    (float, 1j, "x=1j: must be a number"),
    (bool, 1, "x=1: must be true or false"),
    (str, 1, "x=1: must be text"),
    (Literal["a", "b", "c"], "d", "x='d': choose 'a', 'b' or 'c'"),
    (Literal["a", "b"], ["a"], "x=['a']: choose 'a' or 'b'"),
    (Size | None, 0, "x=0: must be a whole number of at least 1"),
    (list[Size], [1, 0], "x[1]=0: must be a whole number of at least 1"),
    (list[Size], "12", "x='12': must be a list"),
    (dict[str, dict], {"a": 1}, "x.a=1: must be a table"),
]


@pytest.mark.parametrize(("hint", "value", "message"), REFUSED)
def test_what_does_not_fit_is_refused(hint, value, message):
    with pytest.raises(ValueError) as raised:
        check("x", value, hint)
    assert message in str(raised.value) and len(str(raised.value)) < 200


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (Size, np.int64(3)), (Positive, np.float32(0.5)), (Positive, 3), (Size | None, None), (bool, np.bool_(True)),
        (list[Size], []), (str | Range, Range()), (np.ndarray, "whatever"), (dict[str, dict], {"a": {}}),
    ],
)  # fmt: skip
def test_what_fits_is_accepted(hint, value):
    check("x", value, hint)


def test_a_value_that_is_nested_deeply_is_shown_short():
    value = []
    for _ in range(10_000):
        value = [value]
    with pytest.raises(ValueError, match="x=.*: must be a whole number") as raised:
        check("x", value, Size)
    assert len(str(raised.value)) < 100


def test_a_checked_function_keeps_its_defaults_and_its_own_errors():
    @checked
    def add(a: Size, *, b: Size = None, c: "Missing" = 1):  # noqa: F821
        return a, b, c

    @checked
    def scale(a: Size, *, b: Size = None):
        return a, b

    assert scale(2) == (2, None) == scale(a=2, b=None)
    with pytest.raises(ValueError, match="a='2': must be a whole number"):
        scale("2")
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'a'"):
        scale(b=1)
    assert add("2", c=3) == ("2", None, 3)  # its annotations cannot be read
