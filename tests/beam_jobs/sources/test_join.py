"""Tables joined and filtered."""

from __future__ import annotations

import pytest

from beam_jobs.sources.join import NOT_THERE, filter_rows, join_tables
from cxr.errors import InputError
from cxr.tables import Table


def table(name: str, **columns: list[str]) -> Table:
    return Table(name, columns, range(2, 2 + len(next(iter(columns.values())))))


IMAGES = table("images.csv", image=["1", "2", "3"], study=["a", "a", "b"])


def test_rows_of_the_same_columns_are_added():
    whole, described = join_tables([IMAGES, table("more.csv", study=["c"], image=["4"])])
    assert whole.columns == {"image": ["1", "2", "3", "4"], "study": ["a", "a", "b", "c"]}
    assert list(whole.lines) == [2, 3, 4, 2]
    assert described == ("rows of more.csv added: 1",)


def test_another_table_is_looked_up_by_what_both_have():
    labels = table("labels.csv", study=["a", "c", "a"], Mass=["1", "0", "1"])
    split = table("split.csv", image=["1", "2", "3"], study=["a", "a", "b"], split=["train", "test", "test"])
    whole, described = join_tables([IMAGES, labels, split])
    assert whole.columns == {**IMAGES.columns, "Mass": ["1", "1", NOT_THERE], "split": ["train", "test", "test"]}
    assert described == (
        "labels.csv joined by study; 1 rows are not in it, and what it would say of them is not known",
        "split.csv joined by image, study",
    )


def test_rows_of_other_images_are_added_though_a_column_is_more():
    whole, described = join_tables([IMAGES, table("more.csv", image=["4", "5"], study=["c", "c"], note=["x", "y"])])
    assert whole.columns["image"] == ["1", "2", "3", "4", "5"]
    assert whole.columns["note"] == [NOT_THERE] * 3 + ["x", "y"]
    assert described == ("rows of more.csv added: 2, as it has none of the others",)


def test_a_table_that_lacks_most_rows_is_refused():
    with pytest.raises(
        InputError, match=r"labels\.csv has only 1 of the 3 rows of images\.csv by image\. Are these written"
    ):
        join_tables([IMAGES, table("labels.csv", image=["1", "02", "03"], label=["N", "P", "N"])])


def test_tables_that_cannot_be_joined():
    with pytest.raises(InputError, match=r"b\.csv shares no column with images\.csv.*x against image, study"):
        join_tables([IMAGES, table("b.csv", x=["1"])])
    with pytest.raises(InputError, match=r"b\.csv, line 3: study a appears twice, with different cells"):
        join_tables([IMAGES, table("b.csv", study=["a", "a"], x=["1", "2"])])


PEOPLE = table("p.csv", **{"Frontal/Lateral": ["Frontal", "Lateral", "Frontal"], "age": ["58", "", "7"]})


@pytest.mark.parametrize(
    ("conditions", "lines"),
    [
        (["Frontal/Lateral=Frontal"], [2, 4]),
        (["frontal/lateral != Frontal"], [3]),
        (["Frontal/Lateral=Frontal|Lateral"], [2, 3, 4]),
        (["age>=18"], [2]),
        (["age<58"], [4]),
        (["age!="], [2, 4]),
        (["Frontal/Lateral=Frontal", "age<=7"], [4]),
    ],
)
def test_conditions(conditions: list[str], lines: list[int]):
    filtered, described = filter_rows(PEOPLE, conditions)
    assert list(filtered.lines) == lines
    assert described[-1] == f"rows with {conditions[-1]}: {len(lines)} of {3 if len(conditions) == 1 else 2}"


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("age", "expected COLUMN=VALUE"),
        ("sex=F", r"p\.csv has no column 'sex'; it has Frontal/Lateral, age"),
        ("age>old", "expected a number after >, received 'old'"),
        ("age=9", "no row has '9'; the column has '', '58', '7'"),
    ],
)
def test_conditions_that_make_no_sense(condition: str, message: str):
    with pytest.raises(InputError, match=f"--where {condition}.*{message}"):
        filter_rows(PEOPLE, [condition])
