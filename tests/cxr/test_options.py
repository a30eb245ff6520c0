"""An option is said once; checks, JSON, help and the nearest name follow from that."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxr.errors import InputError
from cxr.kinds import Choice, Flag, Kind, Pairs, Parsed, Real, Several, Text, Whole, directory
from cxr.options import REQUIRED, Options, default_of, fields_of, nearest, option, options


@options
class Example(Options):
    """An example."""

    title = "example"

    name: str = option(Text(), "of it")
    rate: float = option(Real(above=0), "how fast", default=0.5)
    epochs: int | None = option(Whole(1), "how long", default=None, unset="as long as it takes")
    sizes: tuple[int, ...] = option(Several(Whole(8), 0, distinct=True), "how large", default=())
    more: dict[str, Any] = option(Pairs(), "what else", default_factory=dict)

    def check(self) -> None:
        if self.rate == 13:
            raise InputError("rate=13 does not go with anything")


@pytest.mark.parametrize(
    ("kind", "good", "stored"),
    [
        (Text(), Path("a/b"), "a/b"),
        (Flag(), False, False),
        (Choice(("a", "b")), "b", "b"),
        (Whole(1, 3), np.int64(3), 3),
        (Real(0, 1), 1, 1.0),
        (Real(0, 1), np.float32(0.5), 0.5),
        (Real(0, below=1), 0, 0.0),
        (Several(Whole(1), 2, 2), [1, 2], (1, 2)),
        (Several(Whole(1), 0), [], ()),
        (Several(Whole(1)), 4, (4,)),
        (Pairs(), {"a": (1, 2)}, {"a": [1, 2]}),
        (Parsed(int, "digits"), "12", 12),
    ],
)
def test_values_are_stored_plainly(kind: Kind, good: Any, stored: Any):
    found = kind.check(good)
    assert found == stored
    assert type(found) is type(stored)


@pytest.mark.parametrize(
    ("kind", "bad", "expected"),
    [
        (Text(), 1, "text"),
        (directory(), None, "the path of a directory"),
        (directory(), "", "the path of a directory"),
        (Flag(), 1, "true or false"),
        (Choice(("none", "light")), "nome", "one of none, light"),
        (Whole(), 1.0, "a whole number"),
        (Whole(), True, "a whole number"),
        (Whole(1), 0, "a whole number of at least 1"),
        (Whole(1, 3), 4, "a whole number from 1 to 3"),
        (Real(), math.nan, "a number"),
        (Real(0), math.inf, "a number of at least 0"),
        (Real(0, 1), -0.1, "a number from 0 to 1"),
        (Real(above=0), 0, "a number above 0"),
        (Real(above=0, high=1), 2, "a number above 0 and at most 1"),
        (Real(0, below=1), 1, "a number of at least 0 and below 1"),
        (Real(), "3", "a number"),
        (Several(Whole(8), 0, distinct=True), (8, 8), "different values separated by commas, each a whole number of"),
        (Several(Real(0, 1), 3, 3), (0.5, 0.5), "3 values separated by commas, each a number from 0 to 1"),
        (Several(Text(), 2), ("a",), "2 or more values separated by commas, each text"),
        (Several(Whole(), 1, 4), (1, 2, 3, 4, 5), "1 to 4 values"),
        (Pairs(), [1], "values by name, NAME=VALUE"),
        (Parsed(int, "digits"), "x", "digits"),
    ],
)
def test_bad_values_are_refused_and_what_is_expected_is_said(kind: Kind, bad: Any, expected: str):
    with pytest.raises((ValueError, TypeError, OverflowError)):
        kind.check(bad)
    assert expected in str(kind)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Whole(), "12", 12),
        (Real(), "1e-3", 0.001),
        (Several(Whole()), "3, 4", (3, 4)),
        (Several(Whole(), 0), "none", ()),
        (Several(Text(), 2), "a, b", ("a", "b")),
        (Pairs(), "filters=32,64", {"filters": [32, 64]}),
        (Pairs(), "batch-size=8", {"batch_size": 8}),
        (Pairs(), "flip=true", {"flip": True}),
        (Pairs(), "pool=max", {"pool": "max"}),
        (Pairs(texts=True), "rate=1e-4..1e-2", {"rate": "1e-4..1e-2"}),
    ],
)
def test_text_is_read(kind: Kind, text: str, value: Any):
    assert kind.parse(text) == value


@pytest.mark.parametrize(("kind", "text"), [(Whole(), "1.5"), (Real(), "x"), (Pairs(), "filters"), (Pairs(), "=3")])
def test_text_that_says_nothing_is_refused(kind: Kind, text: str):
    with pytest.raises(ValueError):
        kind.parse(text)


def test_an_options_class_checks_stores_and_comes_back_from_json():
    made = Example("x", sizes=[8, 16], more={"a": (1,)})
    assert (made.sizes, made.more, made.epochs) == ((8, 16), {"a": [1]}, None)
    assert Example.from_json(made.to_json()) == made
    assert Example.from_json({"name": "x"}) == Example("x")
    assert default_of(Example, "name") is REQUIRED
    with pytest.raises(AttributeError):
        made.rate = 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rate": 0}, r"^rate=0: expected a number above 0$"),
        ({"epochs": 0}, r"^epochs=0: expected a whole number of at least 1$"),
        ({"rate": 13}, "does not go with anything"),
        ({"rat": 1}, r"^the example has no option 'rat'; did you mean rate\?$"),
        ({"colour": 1}, r"has no option 'colour'; known are name, rate, epochs, sizes, more$"),
        ({"name": None}, r"^name=None: expected text$"),
    ],
)
def test_what_is_wrong_is_named(fields, message):
    with pytest.raises(InputError, match=message):
        Example.from_json({"name": "x", **fields})


def test_the_docstring_tells_every_option():
    said = Example.__doc__ or ""
    assert said.startswith("An example.")
    assert "rate: how fast; a number above 0 (0.5)" in said
    assert "epochs: how long; a whole number of at least 1 (as long as it takes)" in said
    assert list(fields_of(Example)) == ["name", "rate", "epochs", "sizes", "more"]


def test_the_nearest_name():
    assert nearest("robst", ["mlp", "robust"]) == "; did you mean robust?"
    assert nearest("zzz", ["mlp", "robust"]) == ""
