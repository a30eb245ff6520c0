"""What cells say of labels."""

from __future__ import annotations

import pytest

from beam_jobs.sources.label_cells import (
    Labels,
    count_states,
    is_state_column,
    merge_readers,
    read_states,
    rename,
    split_cell,
)
from cxr.errors import InputError
from cxr.tables import Table


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("Mass", ("Mass",)),
        ("Mass|Nodule| Mass |", ("Mass", "Nodule")),
        ("['mass', 'pleural effusion', ' mass ']", ("mass", "pleural effusion")),
        ('["a", "b"]', ("a", "b")),
        ("[]", ()),
        ("['']", ()),
        ("", ()),
        ("nan", ()),
        ("[nan]", ()),
        ("['mass' 'nodule']", ("mass", "nodule")),
        ("['mass', nan]", ("mass",)),
        ("[mass, nodule]", ("mass", "nodule")),
        ("('mass', 'nodule')", ("mass", "nodule")),
        ("(left)", ("(left)",)),
        ("[" * 9000 + "]", ("[" * 9000 + "]",)),
        ("<NA>", ()),
        ("[odd", ("[odd",)),
        ("[a] b]", ("[a] b]",)),
        ("mass, nodule", ("mass, nodule",)),
    ],
)
def test_labels_of_one_cell(cell: str, expected: tuple[str, ...]):
    assert split_cell(cell) == expected


def test_another_separator_and_none():
    assert split_cell("a, b", ",") == ("a", "b")
    assert split_cell("a|b", "") == ("a|b",)


def table(**columns: list[str]) -> Table:
    return Table("t.csv", columns, range(2, 2 + len(next(iter(columns.values())))))


STATES = {"Mass": ["1.0", "0", "", "-1"], "Edema": ["0.0", "1", "-1.0", "nan"]}


@pytest.mark.parametrize(
    ("uncertain", "missing", "expected"),
    [
        ("ignore", "negative", [(("Mass",), ()), (("Edema",), ()), ((), ("Edema",)), ((), ("Mass",))]),
        ("ignore", "ignore", [(("Mass",), ()), (("Edema",), ()), ((), ("Mass", "Edema")), ((), ("Mass", "Edema"))]),
        ("positive", "negative", [(("Mass",), ()), (("Edema",), ()), (("Edema",), ()), (("Mass",), ())]),
        ("negative", "negative", [(("Mass",), ()), (("Edema",), ()), ((), ()), ((), ())]),
    ],
)
def test_one_column_a_label(uncertain, missing, expected):
    found = read_states(table(**STATES), ["Mass", "Edema"], uncertain, missing)
    assert [tuple(labels) for labels in found] == expected
    assert count_states(table(**STATES), ["Mass", "Edema"]) == (2, 2)


def test_a_cell_that_is_no_state():
    with pytest.raises(InputError, match=r"t\.csv, line 3: the label 'Mass' is '2'; expected 1 \(present\)"):
        read_states(table(Mass=["1", "2"]), ["Mass"], "ignore", "negative")


def test_columns_that_look_like_labels():
    assert is_state_column(["0", "1", "", "-1.0"])
    assert is_state_column(["0", "0"])
    assert not is_state_column(["", "nan"])
    assert not is_state_column(["0", "1", "2"])
    assert not is_state_column(["58", "0"])


@pytest.mark.parametrize(("readers", "present"), [("any", ("a", "b")), ("majority", ("a",)), ("all", ())])
def test_several_readers(readers, present):
    rows = [Labels(("a", "b")), Labels(("a",)), Labels((), ("c",))]
    assert merge_readers(rows, readers) == Labels(present, ())
    assert merge_readers([Labels((), ("c",)), Labels((), ("c",))], readers) == Labels((), ("c",))


def test_who_does_not_know_has_no_vote():
    assert merge_readers([Labels(("a",)), Labels((), ("a",)), Labels((), ("a",))], "majority") == Labels(("a",))


def test_renaming():
    names = {"tb": "TB", "Tuberculosis": "TB", "junk": ""}
    assert rename(Labels(("tb", "Tuberculosis", "junk", "x"), ("junk", "y")), names) == Labels(("TB", "x"), ("y",))
    assert rename(Labels(("tb",), ("Tuberculosis",)), names) == Labels(("TB",), ())
