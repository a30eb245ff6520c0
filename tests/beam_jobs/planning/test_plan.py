"""Plans over synthetic rows: labels, patients, splits and shards."""

from __future__ import annotations

import collections
import dataclasses
import random
from typing import Any

import pytest

from beam_jobs.planning import plan as planning
from beam_jobs.planning.headers import IndexRow
from beam_jobs.planning.plan import (
    MIN_SHARD_IMAGES,
    MIN_SHARDS,
    PNG_RATIO,
    Plan,
    PlannedImage,
    ShardPlan,
    make_plan,
)
from beam_jobs.planning.splits import hash_fraction
from beam_jobs.preprocess_config import PreprocessConfig
from beam_jobs.sources.source_image import SourceImage
from cxr.errors import InputError
from tfrecords.images.decode import ImageHeader


def row(path: str, *labels: str, split: str | None = None, **more: Any) -> IndexRow:
    """A row; `more` goes to the source image, the header or the row, whichever has the field."""
    parts: list[dict[str, Any]] = [{"bytes": 100_000, "modified": 0}, {}]
    for name, value in more.items():
        known = {field.name for field in dataclasses.fields(SourceImage)}
        parts[0 if name in known else 1][name] = value
    header = {"format": "JPEG", "mode": "L", "width": 1000, "height": 800, "bit_depth": 8} | parts[1]
    return IndexRow(SourceImage(path=path, labels=labels, split=split, **parts[0]), ImageHeader(**header))


def config(**options: Any) -> PreprocessConfig:
    return PreprocessConfig("in", "out", **options)


def pairs(count: int, split: str | None = None, images: int = 2, prefix: str = "") -> list[IndexRow]:
    """`images` images of each of `count` patients, half of them of each class."""
    return [
        row(f"{prefix}{number}_{image}.png", "NP"[number % 2], split=split, patient=f"{prefix}{number}")
        for number in range(count)
        for image in range(images)
    ]


def splits_of(plan: Plan) -> dict[str, str]:
    return {image.path: image.split for image in plan.images}


def stated(rows: list[IndexRow]) -> dict[str, str | None]:
    return {item.image.path: item.image.split for item in rows}


def labels_of(plan: Plan) -> dict[str, tuple[str, ...]]:
    return {image.path: tuple(plan.labels[index] for index in image.labels) for image in plan.images}


ALL_TRAIN = {"fractions": (1.0, 0.0, 0.0)}


# Labels


@pytest.mark.parametrize(
    ("found", "names"),
    [
        (("PNEUMONIA", "NORMAL"), ("NORMAL", "PNEUMONIA")),
        (("Atelectasis", "No Finding", "mass"), ("No Finding", "Atelectasis", "mass")),
        (("b", "A", "C"), ("A", "b", "C")),
        (("zebra", "negative"), ("negative", "zebra")),
    ],
)
def test_normal_comes_first_then_the_alphabet(found: tuple[str, ...], names: tuple[str, ...]):
    rows = [row(f"{number}.png", found[number % len(found)]) for number in range(12)]
    plan = make_plan(rows, config(**ALL_TRAIN))
    assert plan.labels == names
    assert labels_of(plan) == {item.image.path: item.image.labels for item in rows}
    assert not plan.multi_label


def test_classes_give_the_order_and_may_name_absent_ones():
    plan = make_plan([row("1", "N"), row("2", "P"), row("3", "P")], config(classes=("P", "X", "N"), **ALL_TRAIN))
    assert plan.labels == ("P", "X", "N")
    assert labels_of(plan) == {"1": ("N",), "2": ("P",), "3": ("P",)}


NO_CAUSE = [
    row("person1_bacteria_2.jpeg", "P"),
    row("b.png", "P"),
    row("c.png", "P", cause="tb"),
    row("d.png", "normal"),
]
WRONG_CAUSE = [
    row("a.png", "NORMAL"),
    row("P/person1_virus_1.jpeg", "PNEUMONIA"),
    row("person2_bacteria_1.jpeg", "NORMAL"),
]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([row("1", "N"), row("2", "Q")], {"classes": ("N", "P")}, "2 has the unknown label 'Q'; expected one of N, P"),
        ([row(str(n), "N") for n in range(3)], {}, "all 3 images have the label N; .* at least two classes"),
        ([row("1", "P"), row("2", "P")], {"classes": ("N", "P")}, "all 2 images have the label P"),
        ([row("1", "N"), row("2", "P"), row("3")], {}, "3 has an empty label; only a multi-label table"),
        (NO_CAUSE, {"labels": "cause"}, "--labels cause: 2 of 4 images have no known cause, b.png the first"),
        (WRONG_CAUSE, {"labels": "cause"}, "person2_bacteria_1.jpeg is labelled NORMAL and its cause is bacterial"),
        ([row("1", "N\nx"), row("2", "P")], {}, r"label 'N\\nx' contains unprintable"),  # TFDS keeps one label a line
    ],
)
def test_labels_that_are_refused(rows: list[IndexRow], options: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        make_plan(rows, config(**options))


def test_several_labels_make_a_multi_label_set():
    rows = [row("1", "N"), row("2", "B", "A"), row("3"), row("4", "A")]
    plan = make_plan(rows, config(**ALL_TRAIN))
    assert plan.multi_label
    assert plan.labels == ("A", "B", "N")
    assert labels_of(plan) == {"1": ("N",), "2": ("A", "B"), "3": (), "4": ("A",)}


def test_cause_labels_from_names_columns_and_normal_classes():
    causes = {
        row("P/person1_bacteria_2.jpeg", "P"): "bacterial",
        row("P/person1_virus_3.jpeg", "P"): "viral",
        row("N/IM-0001-0001.jpeg", "NORMAL"): "normal",
        row("x.png", "P", cause="Viral"): "viral",
        row("y.png", "Normal"): "normal",
        row(
            "N/person3_virus_1.jpeg", "P", cause="bacteria"
        ): "bacterial",  # what the source states goes before the name
    }
    plan = make_plan(list(causes), config(labels="cause", **ALL_TRAIN))
    assert plan.labels == ("normal", "bacterial", "viral")
    assert labels_of(plan) == {item.image.path: (cause,) for item, cause in causes.items()}
    assert {image.path: image.cause for image in plan.images} == {i.image.path: cause for i, cause in causes.items()}


def test_cause_is_kept_under_binary_labels():
    plan = make_plan([row("person1_bacteria_2.jpeg", "P"), row("z.png", "N")], config(**ALL_TRAIN))
    assert {image.path: image.cause for image in plan.images} == {"person1_bacteria_2.jpeg": "bacterial", "z.png": ""}


# Patients


def test_precedence_of_patients():
    """Table, then pattern, then DICOM, then Kermany's names, then the image's own path."""
    name = "P/person7_virus_1.jpeg"

    def patient(item: IndexRow, **options: Any) -> str:
        plan = make_plan([item, row("other.png", "N", patient="p")], config(**ALL_TRAIN, **options))
        found = {image.path: image.patient for image in plan.images}
        assert plan.own_patients == (found[item.image.path] == item.image.path)
        return found[item.image.path]

    both = {"patient": "dicom-1"}
    in_table = dataclasses.replace(row(name, "P").image, patient="T")
    header = dataclasses.replace(row(name, "P").header, **both)  # type: ignore[type-var]
    assert patient(IndexRow(in_table, header)) == "T"
    assert patient(IndexRow(row(name, "P").image, header)) == "dicom-1"
    assert patient(row(name, "P")) == "person7_virus"
    assert patient(row("P/scan.png", "P")) == "P/scan.png"
    assert patient(row("P/00007007_004.png", "P")) == "00007007"


def test_equal_numbers_of_different_causes_are_different_patients():
    rows = [row(f"P/person{n}_{cause}_{n}.jpeg", "P") for n in range(40) for cause in ("virus", "bacteria")]
    plan = make_plan([*rows, row("N/IM-1-1.jpeg", "NORMAL"), row("N/IM-2-1.jpeg", "NORMAL")], config(**ALL_TRAIN))
    assert len({image.patient for image in plan.images}) == 82
    assert plan.own_patients == 0


# Splits


@pytest.mark.parametrize("seed", range(25))
def test_no_patient_stands_in_two_splits(seed: int):
    rows = pairs(150, images=3)
    for options in ({"split": "patient", "fractions": (0.6, 0.2, 0.2)}, {"split": "folder"}):
        given = [dataclasses.replace(item, image=dataclasses.replace(item.image, split="train")) for item in rows]
        plan = make_plan(given, config(seed=seed, **options))
        found = collections.defaultdict(set)
        for image in plan.images:
            found[image.patient].add(image.split)
        assert {len(splits) for splits in found.values()} == {1}
        assert len(set(splits_of(plan).values())) == (3 if options["split"] == "patient" else 2)


@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.1), (0.5, 0.2, 0.3), (0.9, 0.1, 0.0), (0.9, 0.0, 0.1)])
def test_fractions_are_met_on_5000_patients(fractions: tuple[float, float, float]):
    plan = make_plan(pairs(5000, images=1), config(split="patient", fractions=fractions))
    counts = collections.Counter(splits_of(plan).values())
    for split, part in zip(("train", "val", "test"), fractions, strict=True):
        assert counts[split] / 5000 == pytest.approx(part, abs=0.02)
        assert (part == 0) == (counts[split] == 0)


def test_new_splits_are_exact_to_the_patient_for_each_label():
    rows = [row(f"{label}{n}_{image}", label, patient=f"{label}{n}") for label, count in (("N", 70), ("P", 130))
            for n in range(count) for image in range(1 + n % 3)]  # fmt: skip
    for seed in range(3):
        found = splits_of(make_plan(rows, config(split="patient", seed=seed)))
        patients = collections.Counter({(split, path.split("_")[0]) for path, split in found.items()})
        for label, expected in (("N", (56, 7, 7)), ("P", (104, 13, 13))):
            counts = collections.Counter(split for split, patient in patients if patient[0] == label)
            assert tuple(counts[split] for split in ("train", "val", "test")) == expected
    trained = [*pairs(300, "train"), *pairs(40, "test", prefix="t")]
    assert collections.Counter(splits_of(make_plan(trained, config())).values()) == {
        "train": 540,
        "val": 60,
        "test": 80,
    }
    assert splits_of(make_plan(trained, config(seed=1))) != splits_of(make_plan(trained, config()))


def test_splits_of_the_source_are_kept_where_it_has_them():
    rows = [*pairs(60, "train"), *pairs(20, "val", prefix="v"), *pairs(20, "test", prefix="t")]
    plan = make_plan(rows, config())
    assert splits_of(plan) == stated(rows)
    assert plan.notes == ("the source's own validation split of 40 images was kept",)


def test_own_splits_are_put_aside_under_patient():
    rows = [*pairs(100, "train"), *pairs(100, "test", prefix="t")]
    plan = make_plan(rows, config(split="patient"))
    assert {split for path, split in splits_of(plan).items() if path.startswith("t")} == {"train", "val", "test"}


def test_a_split_that_only_some_images_have_is_refused():
    """One blank cell must not send an official test split into train."""
    rows = [*pairs(100, "train"), *pairs(100, "test", prefix="t")]
    with pytest.raises(InputError, match=r"10 of 410 images have no split, u0_0.png the first, and the others have"):
        make_plan([*rows, *pairs(5, prefix="u")], config())
    with pytest.raises(InputError, match=r"--split folder: 10 of 410 images have no split, u0_0.png the first"):
        make_plan([*rows, *pairs(5, prefix="u")], config(split="folder"))


def test_a_tiny_val_is_joined_to_train_and_carved_anew():
    rows = [*pairs(400, "train"), *pairs(4, "val", prefix="v"), *pairs(50, "test", prefix="t")]
    plan = make_plan(rows, config(val_fraction=0.2))
    found = splits_of(plan)
    counts = collections.Counter(found.values())
    assert counts["val"] / (counts["train"] + counts["val"]) == pytest.approx(0.2, abs=0.05)
    assert all((split == "test") == path.startswith("t") for path, split in found.items())
    assert plan.notes[0].startswith(
        "the source's 8 validation images were merged into train, and 20% of the patients of train, "
        f"{counts['val']} of 808 images, were set apart"
    )


def test_val_is_carved_where_the_source_has_none():
    plan = make_plan([*pairs(400, "train"), *pairs(50, "test", prefix="t")], config())
    assert list(splits_of(plan).values()).count("val") / 800 == pytest.approx(0.1, abs=0.04)
    assert plan.notes[0].startswith("10% of the patients of train, ")


@pytest.mark.parametrize(("patients", "kept"), [(49, False), (51, True)])
def test_an_adequate_val_is_kept(patients: int, kept: bool):
    """Adequate: at least half of the wanted share, here 10 % of train and val together."""
    rows = [*pairs(1000 - patients, "train"), *pairs(patients, "val", prefix="v"), *pairs(20, "test", prefix="t")]
    assert (splits_of(make_plan(rows, config())) == stated(rows)) == kept


def test_val_fraction_0_never_carves():
    for rows in ([*pairs(100, "train"), *pairs(2, "val", prefix="v")], pairs(100, "train")):
        assert splits_of(make_plan(rows, config(val_fraction=0))) == stated(rows)


@pytest.mark.parametrize(
    ("rows", "options", "split"),
    [
        (pairs(2), {"split": "patient", "fractions": (0.98, 0.01, 0.01)}, "test"),
        (
            [row("1", "N", patient="p"), row("2", "P", patient="p")],
            {"split": "patient", "fractions": (0.5, 0.5, 0)},
            "val",
        ),
    ],
)
def test_a_split_that_would_be_empty(rows: list[IndexRow], options: dict[str, Any], split: str):
    with pytest.raises(InputError, match=rf"the split '{split}' would be empty: [12] patients cannot fill"):
        make_plan(rows, config(**options))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("t1", "N", split="test"), row("t2", "NORMALL", split="test")],
         "'NORMALL' of split 'test' is unknown in train, which has N, P. Is a class"),
        # what TFDS cannot tell apart
        (pairs(20, "train2", prefix="x"), "the split names 'train' and 'train2' clash"),
        (pairs(20, "trai", prefix="x"), "the split names 'trai' and 'train' clash"),
        (pairs(20, "exam-2", prefix="x"), "'exam-2' contains characters other than letters"),
    ],
)  # fmt: skip
def test_splits_that_do_not_go_with_train(rows: list[IndexRow], message: str):
    with pytest.raises(InputError, match=message):
        make_plan([*pairs(20, "train"), *rows], config(val_fraction=0))


@pytest.mark.parametrize("seed", range(8))
def test_a_class_of_one_patient_stays_in_train(seed: int):
    rows = [*pairs(40), row("rare", "Z", patient="z")]
    plan = make_plan(rows, config(split="patient", fractions=(0.5, 0.25, 0.25), seed=seed))
    assert splits_of(plan)["rare"] == "train"


def test_one_split_alone():
    plan = make_plan(pairs(4, "val"), config(split="external"))
    assert set(splits_of(plan).values()) == {"test"}
    assert plan.notes == (
        "all images went into the split 'test', to validate on",
        "there is no training split: the data set is to evaluate on",
    )  # fmt: skip
    assert set(splits_of(make_plan(pairs(4, "test"), config())).values()) == {"test"}


def test_a_label_that_train_lacks_is_noted_where_images_have_several():
    rows = [*pairs(20, "train"), row("t", "N", "Z", split="test"), row("u", "P", "N", split="test")]
    assert "no image of train has the labels 'Z' of split 'test'" in make_plan(rows, config(val_fraction=0)).notes


def test_unknown_labels_and_groups_go_with_the_image():
    rows = [
        row("1", "N", split="train", unknown=("Z",), view="PA"),
        row("2", "P", split="train", sex="F"),
        *pairs(4, "train"),
    ]
    plan = make_plan(rows, config(val_fraction=0), ("P", "N", "Z", "unused"))
    assert (plan.labels, plan.multi_label, plan.unknown_labels, plan.groups) == (
        ("P", "N", "Z", "unused"),
        True,
        True,
        ("view", "sex"),
    )
    image = {image.path: image for image in plan.images}
    assert [(image[path].labels, image[path].unknown, image[path].groups) for path in "12"] == [
        ((1,), (2,), ("PA", "")), ((0,), (), ("", "F"))
    ]  # fmt: skip


def test_shards_beyond_what_a_file_name_can_count(monkeypatch):
    monkeypatch.setattr(planning, "MAX_SHARDS", 5)
    with pytest.raises(InputError, match=r"--shard-mb 0.1 would cut split 'train' into \d+ shards; at most 5"):
        make_plan(pairs(40), config(shard_mb=0.1, **ALL_TRAIN))


def test_the_default_salt_is_noted_where_dicom_ids_are_hashed():
    header = dataclasses.replace(row("1", "N").header, patient="dicom-0123")  # type: ignore[type-var]
    rows = [IndexRow(row("1", "N").image, header), row("2", "P")]
    assert any("CXR_PATIENT_SALT" in note for note in make_plan(rows, config(**ALL_TRAIN)).notes)
    assert not make_plan(rows, config(patient_salt="s", **ALL_TRAIN)).notes


def test_other_split_names_pass_and_come_after_the_known():
    rows = [*pairs(20, "train"), *pairs(9, "external", prefix="x"), *pairs(9, "test", prefix="t")]
    plan = make_plan(rows, config(val_fraction=0))
    assert list(dict.fromkeys(shard.split for shard in plan.shards)) == ["train", "test", "external"]


# Shards


def varied(count: int, largest: int = 400_000) -> list[IndexRow]:
    numbers = random.Random(3)
    return [
        row(f"{n}.png", "NP"[n % 2], split="train", patient=str(n), bytes=numbers.randint(20_000, largest))
        for n in range(count)
    ]


def test_every_image_stands_in_one_shard():
    rows = [*pairs(200, "train"), *pairs(30, "test", prefix="t")]
    plan = make_plan(rows, config())
    assert sorted(image.path for image in plan.images) == sorted(item.image.path for item in rows)
    for split in ("train", "val", "test"):
        shards = [shard for shard in plan.shards if shard.split == split]
        assert [(shard.index, shard.count) for shard in shards] == [(n, len(shards)) for n in range(len(shards))]
        assert all(image.split == split for shard in shards for image in shard.images)


@pytest.mark.parametrize("count", [50, 333, 2000])
def test_shards_are_balanced_to_within_one_image(count: int):
    plan = make_plan(varied(count), config(val_fraction=0, shard_mb=8))
    sizes = [shard.bytes for shard in plan.shards]
    assert len(sizes) > 3
    assert max(sizes) - min(sizes) <= 2 * max(image.bytes for image in plan.images)
    mean = sum(sizes) / len(sizes)
    assert max(abs(size - mean) for size in sizes) <= max(image.bytes for image in plan.images)


@pytest.mark.parametrize(
    ("images", "shard_mb", "shards"),
    [
        (3, 128, 1),
        (2 * MIN_SHARD_IMAGES, 128, 2),
        (2 * MIN_SHARD_IMAGES - 1, 128, 1),
        (1000, 128, MIN_SHARDS),
        (1000, 4, 24),
        (1000, 100_000 * 1000 / 2**20 / 40, 40),
        (12, 0.001, 12),
    ],
)
def test_number_of_shards(images: int, shard_mb: float, shards: int):
    """By size, 1,000 images of 100 kB being 95.4 MB; at least 16 where each then has 8 images; never an empty one."""
    rows = [row(f"{number}.png", "NP"[number % 2], split="train") for number in range(images)]
    plan = make_plan(rows, config(val_fraction=0, shard_mb=shard_mb))
    assert len(plan.shards) == shards
    assert all(shard.images for shard in plan.shards)


def test_one_huge_image_leaves_no_empty_shard():
    rows = [*varied(40), row("huge.png", "N", split="train", bytes=2**30)]
    plan = make_plan(rows, config(val_fraction=0, shard_mb=10))
    assert all(shard.images for shard in plan.shards)
    assert [shard.index for shard in plan.shards] == list(range(len(plan.shards)))
    assert {shard.count for shard in plan.shards} == {len(plan.shards)}
    assert sum(len(shard.images) for shard in plan.shards) == 41


@pytest.mark.parametrize("split", ["folder", "patient"])
def test_the_order_of_the_rows_does_not_matter(split: str):
    rows = varied(300)
    plan = make_plan(rows, config(split=split))
    for seed in range(3):
        mixed = random.Random(seed).sample(rows, len(rows))
        assert make_plan(mixed, config(split=split)) == plan
    assert make_plan(rows, config(split=split, seed=1)).shards != plan.shards


def test_images_are_mixed_within_a_shard():
    """Not by path: a reader that takes one shard after the other sees both classes."""
    rows = [row(f"{label}/{n:03d}.png", label, split="train") for label in "NP" for n in range(200)]
    plan = make_plan(rows, config(val_fraction=0))
    for shard in plan.shards:
        share = sum(image.labels == (0,) for image in shard.images) / len(shard.images)
        assert 0.1 < share < 0.9


@pytest.mark.parametrize(
    ("encoding", "fields", "expected"),
    [
        ("source", {}, 100_000),
        ("source", {"format": "PNG"}, 100_000),
        ("source", {"format": "TIFF"}, 800_000 * PNG_RATIO),
        ("png", {}, 800_000 * PNG_RATIO),
        ("raw", {}, 800_000),
        ("raw", {"bit_depth": 16}, 1_600_000),
        ("source", {"format": "PNG", "bit_depth": 16}, 100_000),
    ],
)
def test_estimated_bytes(encoding: str, fields: dict[str, Any], expected: float):
    rows = [row("1", "N", **fields), row("2", "P", **fields)]
    plan = make_plan(rows, config(encoding=encoding, **ALL_TRAIN))
    assert {(image.bytes, image.pixels) for image in plan.images} == {(expected, 800_000)}


def test_mixed_bit_depths_are_noted():
    rows = [*pairs(10), row("deep.png", "N", bit_depth=16, format="PNG")]
    plan = make_plan(rows, config(**ALL_TRAIN))
    assert plan.bit_depth == 16
    assert plan.notes == ("20 images have 8 bits and 1 have 16: all are stored with 16, 8-bit values x 257",)
    assert {image.bytes for image in plan.images if image.path != "deep.png"} == {1_600_000 * PNG_RATIO}
    assert make_plan(pairs(10), config(**ALL_TRAIN)).bit_depth == 8


def test_shard_plan_survives_json():
    one, two = PlannedImage("ä/1.png", (1,), "train", "p", "viral", 5, 6), PlannedImage("2", (), "train", "q", "", 0, 0)
    plan = ShardPlan("train", 3, 5, (one, two, PlannedImage("3.png", (0, 2), "train", "q", "", 7, 8)))
    assert ShardPlan.from_json(plan.to_json()) == plan
    assert plan.bytes == 12


def test_hash_fraction_is_stable_even_and_tells_parts_apart():
    assert hash_fraction(0, "split", "person1_virus") == 0.6260010956481725  # sha256sum of the three, NUL between them
    values = sorted(hash_fraction(7, number) for number in range(4000))
    assert max(abs(value - (place + 0.5) / 4000) for place, value in enumerate(values)) < 0.03
    assert hash_fraction("ab", "c") != hash_fraction("a", "bc")
