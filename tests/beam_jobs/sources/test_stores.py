"""Folders, zips, tables and a TFDS data set made here, listed and read."""

from __future__ import annotations

import errno
import os
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import MagicMock, Mock

import numpy as np
import pytest

from beam_jobs.job import read_source
from beam_jobs.preprocess_config import PreprocessConfig
from beam_jobs.sources import stores
from beam_jobs.sources.image_list import list_images
from beam_jobs.sources.reading import Reading
from beam_jobs.sources.source_image import SourceImage
from beam_jobs.sources.stores import Folder, Store, Tar, Zip, open_store
from beam_jobs.sources.tfds_source import materialize_tfds
from cxr.errors import ImageError, InputError
from tfrecords.images.decode import decode

CONTENT = b"0123456789"


def make_folder(root: Path, paths: list[str]) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(CONTENT + path.encode())
    return root


def make_zip(path: Path, members: list[str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in members:
            archive.writestr(member, b"" if member.endswith("/") else CONTENT + member.encode())
    return path


def make(kind: str, place: Path, paths: list[str], folders: Sequence[str] = ()) -> Store:
    if kind == "folder":
        return open_store(str(make_folder(place, paths)))
    return open_store(str(make_zip(place.with_suffix(".zip"), [*folders, *paths])))


def images_of(source: Store) -> list[SourceImage]:
    return list_images(source, Reading(table=(), trusted=True), "none").images


def listed(source: Store) -> set[tuple[str, str | None, tuple[str, ...]]]:
    images = images_of(source)
    assert len({image.path for image in images}) == len(images)
    for image in images:
        assert source.read(image.path) == CONTENT + image.path.encode()
        assert image.bytes == len(CONTENT + image.path.encode())
    return {(image.path, image.split, image.labels) for image in images}


JUNK = [".DS_Store", "a/.hidden.png", "a/Thumbs.db", "a/desktop.ini", "__MACOSX/train/a/._x.png", ".git/a/x.png"]
LAYOUTS: dict[str, tuple[list[str], dict[str, tuple[str | None, str]]]] = {
    "classes": (
        ["NORMAL/1.png", "PNEUMONIA/1.png", *JUNK],
        {"NORMAL/1.png": (None, "NORMAL"), "PNEUMONIA/1.png": (None, "PNEUMONIA")},
    ),
    "splits of many spellings": (
        ["Training/N/1", "valid/N/2", "dev/P/3", "TEST/P/4"],
        {"Training/N/1": ("train", "N"), "valid/N/2": ("val", "N"), "dev/P/3": ("val", "P"), "TEST/P/4": ("test", "P")},
    ),
    "one folder that holds all": (
        ["set/chest/train/N/1", "set/chest/test/P/2", "set/.DS_Store"],
        {"set/chest/train/N/1": ("train", "N"), "set/chest/test/P/2": ("test", "P")},
    ),
    "one folder that holds the classes": (["set/N/1", "set/P/2"], {"set/N/1": (None, "N"), "set/P/2": (None, "P")}),
    "only train": (["train/N/1", "train/P/2"], {"train/N/1": ("train", "N"), "train/P/2": ("train", "P")}),
    "only one class": (["N/1", "N/2"], {"N/1": (None, "N"), "N/2": (None, "N")}),
    "deeper files": (
        ["train/N/patient 7/a/1.png", "train/P/2.png"],
        {"train/N/patient 7/a/1.png": ("train", "N"), "train/P/2.png": ("train", "P")},
    ),
    "class deeper files": (["N/x/1", "P/y/z/2"], {"N/x/1": (None, "N"), "P/y/z/2": (None, "P")}),
    "documents outside splits": (
        ["train/N/1", "test/P/2", "README.txt", "train/labels.CSV", "docs/a/paper.pdf", "docs/x.Json", "N.md"],
        {"train/N/1": ("train", "N"), "test/P/2": ("test", "P")},
    ),
    "documents outside classes": (
        ["set/N/1", "set/P/2", "set/labels.xlsx", "README.html", "docs/a/b.docx", "other/t.tsv", "t.xls"],
        {"set/N/1": (None, "N"), "set/P/2": (None, "P")},
    ),
    "documents inside classes": (
        ["train/N/1", "train/N/note.txt", "test/P/x/list.csv", "test/P/2", "test/note.txt"],
        {"train/N/1": ("train", "N"), "train/N/note.txt": ("train", "N"), "test/P/x/list.csv": ("test", "P"),
         "test/P/2": ("test", "P")},
    ),
    "documents alone in a class": (["N/1", "P/2.md"], {"N/1": (None, "N"), "P/2.md": (None, "P")}),
    "names with spaces and umlauts": (
        ["Grün weiß/ä 1.png", "P/2"], {"Grün weiß/ä 1.png": (None, "Grün weiß"), "P/2": (None, "P")}
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_layouts(tmp_path: Path, kind: str, layout: str):
    paths, expected = LAYOUTS[layout]
    folders = sorted({f"{path.rsplit('/', 1)[0]}/" for path in paths if "/" in path})
    source = make(kind, tmp_path / "in", paths, folders)
    assert source.kind == kind
    assert listed(source) == {(path, split, (label,)) for path, (split, label) in expected.items()}


REFUSED_LAYOUTS = {
    "split beside class": (["train/N/1", "NORMAL/1"], "split folders beside NORMAL; expected only splits"),
    "deep split beside class": (["train/N/1", "unlabelled/N/1"], "split folders beside unlabelled"),
    "split beside stray file": (["train/N/1", "README.png"], "split folders beside README.png"),
    "file beside classes": (["N/1", "P/2", "list.bin", "list.txt"], "class/image .*list.bin, which lies in no class"),
    "only documents": (["README.txt", "labels.csv"], "README.txt, labels.csv, which lie in no class"),
    "files in a split": (["train/1", "train/2", "test/N/1"], "split/class/image .*train/1, train/2, which lie in"),
    "flat": (["1.png", "2.png"], "1.png, 2.png"),
    "many strays": ([f"{n}.png" for n in range(9)], r"4.png and 4 more"),
    "only junk": (JUNK[:5], "is empty; expected split/class/image"),
}


@pytest.mark.parametrize("name", REFUSED_LAYOUTS)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_refused_layouts(tmp_path: Path, kind: str, name: str):
    paths, message = REFUSED_LAYOUTS[name]
    with pytest.raises(InputError, match=message) as caught:
        images_of(make(kind, tmp_path / "in", paths))
    assert str(tmp_path / "in") in str(caught.value)


def test_stamps_are_times_of_files_and_checksums_of_members(tmp_path: Path):
    for kind, expected in (("folder", 123456789), ("zip", zlib.crc32(CONTENT + b"N/1"))):
        source = make(kind, tmp_path / "in", ["N/1", "P/2"])
        os.utime(tmp_path / "in/N/1", ns=(5, 123456789))
        assert {image.path: image.modified for image in images_of(source)}["N/1"] == expected


def test_symlinks_are_followed(tmp_path: Path):
    root = make_folder(tmp_path / "in", ["N/1"])
    make_folder(tmp_path / "elsewhere", ["2", "3"])
    (root / "P").symlink_to(tmp_path / "elsewhere")
    (root / "N/4").symlink_to(tmp_path / "elsewhere/3")
    images = {image.path: image for image in images_of(Folder(str(root)))}
    assert set(images) == {"N/1", "N/4", "P/2", "P/3"}
    assert images["N/4"].bytes == len(CONTENT) + 1
    assert Folder(str(root)).read("P/2") == CONTENT + b"2"


def test_broken_symlinks_loops_and_pipes_are_refused(tmp_path: Path):
    for name in ("broken", "loop", "self", "pipe"):
        make_folder(tmp_path / name, ["N/1", "P/2"])
    (tmp_path / "broken/N/gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "loop/N/again").symlink_to(tmp_path / "loop/N")
    (tmp_path / "self/N/self").symlink_to("self")
    os.mkfifo(tmp_path / "pipe/N/pipe.png")
    for name, message in (
        ("broken", "gone.png: No such file"),
        ("loop", "N/again leads back to a folder that it lies in, through symbolic links"),
        ("self", "symbolic links"),
        ("pipe", "pipe.png is neither"),
    ):
        with pytest.raises(InputError, match=message):
            images_of(Folder(str(tmp_path / name)))


@pytest.mark.timeout(20)
def test_many_links_to_a_folder_above_do_not_multiply(tmp_path: Path):
    """Followed until the system refuses, 40 levels of three links each would be 3^40 folders."""
    root = make_folder(tmp_path / "in", ["N/1", "P/2"])
    for name in "abc":
        (root / "N" / name).symlink_to(root)
    with pytest.raises(InputError, match="symbolic links"):
        images_of(Folder(str(root)))


def test_two_links_to_one_folder_are_no_loop(tmp_path: Path):
    root = make_folder(tmp_path / "in", ["N/1", "P/2"])
    make_folder(tmp_path / "elsewhere", ["3"])
    for name in ("N", "P"):
        (root / name / "more").symlink_to(tmp_path / "elsewhere")
    assert {image.path for image in images_of(Folder(str(root)))} == {"N/1", "N/more/3", "P/2", "P/more/3"}


def test_file_name_that_is_not_utf8(tmp_path: Path):
    root = make_folder(tmp_path / "in", ["N/1", "P/2"])
    Path(os.fsdecode(os.fsencode(root) + b"/N/\xff.png")).write_bytes(b"x")
    with pytest.raises(InputError, match=r"\\xff.png' is not UTF-8 text; rename it"):
        images_of(Folder(str(root)))


def test_unreadable_inputs(tmp_path: Path):
    with pytest.raises(
        InputError, match=r"nothing-here does not exist; expected a folder, a \.zip, a \.tar or a table"
    ):
        open_store(str(tmp_path / "nothing-here"))
    (tmp_path / "not.zip").write_bytes(b"PK\3\4 broken off")
    with pytest.raises(InputError, match=r"not.zip is neither a folder.*If it is a zip, it is damaged"):
        open_store(str(tmp_path / "not.zip"))
    with pytest.raises(InputError, match="cannot open the zip"):
        images_of(Zip(str(tmp_path / "not.zip")))
    source = open_store(str(make_folder(tmp_path / "in", ["N/1", "P/2"])))
    again = r"No such file or directory\. Run the same command again once it can be read"
    with pytest.raises(InputError, match=f"cannot read {tmp_path}/in/N/7: {again}"):
        source.read("N/7")


@pytest.mark.parametrize("name", ["x" * 300, "/".join(["x" * 200] * 30)])
@pytest.mark.parametrize("end", ["", ".zip", ".csv"])
def test_an_input_of_an_impossible_name(name: str, end: str):
    with pytest.raises(InputError, match=r"cannot read the input xxx.*: File name too long") as caught:
        open_store(name + end)
    assert len(str(caught.value)) < 700


def test_an_input_with_a_nul(tmp_path: Path):
    with pytest.raises(InputError, match="does not exist"):
        open_store("in\0")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_disk_that_fails_is_no_fault_of_the_image(tmp_path: Path, monkeypatch, kind: str, number: int):
    root = make_folder(tmp_path / "in", ["N/1", "P/2"])
    place = {"folder": root, "zip": make_zip(tmp_path / "in.zip", ["N/1", "P/2"])}[kind]
    source = open_store(str(place))
    assert source.read("N/1") == CONTENT + b"N/1"
    file = MagicMock(read=Mock(side_effect=OSError(number, os.strerror(number))))
    file.__enter__.return_value = file
    if kind == "zip":
        ((_, archive, _), *_) = stores._zip_members(str(place)).values()
        monkeypatch.setattr(archive, "fp", file)
    else:
        monkeypatch.setattr(stores, "open", lambda *args: file, raising=False)
    with pytest.raises(
        InputError, match=f"cannot read .*: {os.strerror(number)}. Run the same command again"
    ) as caught:
        source.read("N/1")
    assert "N/1" in str(caught.value) and str(tmp_path / "in") in str(caught.value)
    monkeypatch.undo()
    assert source.read("N/1") == CONTENT + b"N/1"


def test_a_source_keeps_its_place_in_another_working_directory(tmp_path: Path, monkeypatch):
    root = make_folder(tmp_path / "in", ["N/1", "P/2"])
    make_zip(tmp_path / "in.zip", ["N/1", "P/2"])
    (root / "t.csv").write_text("path,label\nN/1,N\nP/2,P\n")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/t.csv").write_text("path,label\nN/1,N\nP/2,P\n")
    monkeypatch.chdir(tmp_path)
    tables = (PreprocessConfig("in/t.csv", "out"), PreprocessConfig("tables/t.csv", "out", images_root="in"))
    opened = [*map(open_store, ("in", "./tables/../in.zip")), *(read_source(config)[0] for config in tables)]
    assert [source.root for source in opened] == [str(root), str(tmp_path / "in.zip"), str(root), str(root)]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for source in opened:
        assert {image.path for image in images_of(source)} >= {"N/1", "P/2"}
        assert source.read("P/2") == CONTENT + b"P/2"


@pytest.mark.parametrize("name", ["in", "in.zip", "in.bin"])
def test_images_root_without_a_table_is_refused(tmp_path: Path, name: str):
    make_folder(tmp_path / "in", ["N/1", "P/2"])
    make_zip(tmp_path / "in.zip", ["N/1", "P/2"])
    (tmp_path / "in.bin").write_bytes(b"x")
    with pytest.raises(InputError, match=r"--images-root /x: only a table .*\.csv.* has paths to look for there"):
        read_source(PreprocessConfig(str(tmp_path / name), "out", images_root="/x"))


def test_read_with_a_limit(tmp_path: Path):
    folder = Folder(str(make_folder(tmp_path / "in", ["N/1"])))
    archive = Zip(str(make_zip(tmp_path / "in.zip", ["N/1"])))
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        tar.add(tmp_path / "in", ".")
    for source in (folder, archive, open_store(str(tmp_path / "in.tar"))):
        assert [source.read("N/1", limit) for limit in (0, 4, 99)] == [b"", CONTENT[:4], CONTENT + b"N/1"]
        assert pickle.loads(pickle.dumps(source)) == source


def test_archives_in_a_folder_and_in_each_other(tmp_path: Path):
    """The files of an archive that lies in a folder, or uncompressed in a zip, are read one by one where they lie."""
    (tmp_path / "made").mkdir()
    inner = make_zip(tmp_path / "made/0.zip", ["N/1.png", "P/2.png"])
    with tarfile.open(tmp_path / "made/1.tar", "w") as tar:
        tar.add(make_folder(tmp_path / "loose", ["./N/3.png"]), ".")
    with zipfile.ZipFile(tmp_path / "made/outer.zip", "w") as archive:
        archive.write(inner, "deep/0.zip")
        archive.writestr("N/4.png", CONTENT + b"N/4.png")
    (tmp_path / "made/labels.csv.zip").write_bytes(inner.read_bytes())
    expected = {
        "0.zip/N/1.png": "N/1.png", "0.zip/P/2.png": "P/2.png", "1.tar/N/3.png": "./N/3.png",
        "outer.zip/deep/0.zip/N/1.png": "N/1.png", "outer.zip/deep/0.zip/P/2.png": "P/2.png",
        "outer.zip/N/4.png": "N/4.png",
    }  # fmt: skip
    store = open_store(str(tmp_path / "made"))
    assert set(store.entries()) == {*expected, "labels.csv.zip"}
    for path, content in expected.items():
        assert store.read(path) == CONTENT + content.encode()
        assert store.read(path, 4) == CONTENT[:4]
        assert store.entries()[path].bytes == len(CONTENT + content.encode())
    with ThreadPoolExecutor(8) as pool:  # threads share the archives
        assert (
            list(pool.map(store.read, [*expected] * 50)) == [CONTENT + one.encode() for one in expected.values()] * 50
        )
    assert pickle.loads(pickle.dumps(store)) == store


def test_a_compressed_zip_in_a_zip_is_refused(tmp_path: Path):
    inner = make_zip(tmp_path / "0.zip", ["N/1.png"])
    with zipfile.ZipFile(tmp_path / "outer.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(inner, "0.zip")
    with pytest.raises(InputError, match=r"outer\.zip holds the compressed zip 0\.zip.*unpack .*outer\.zip once"):
        open_store(str(tmp_path / "outer.zip")).entries()


@pytest.mark.parametrize("place", ["in.tar.gz", "in"])
def test_a_tar_that_is_compressed_as_a_whole_has_to_be_unpacked(tmp_path: Path, place: str):
    (tmp_path / "in").mkdir()
    for folder in (tmp_path, tmp_path / "in"):
        with tarfile.open(folder / "in.tar.gz", "w:gz") as tar:
            tar.add(make_folder(tmp_path / "loose", ["N/1.png"]), ".")
    with pytest.raises(InputError, match=r"in\.tar\.gz is compressed as a whole.*Unpack it once: tar -xf in\.tar\.gz"):
        open_store(str(tmp_path / place)).entries()


def test_names_with_backslashes(tmp_path: Path):
    source = open_store(str(make_zip(tmp_path / "in.zip", ["N\\1.png", "P\\a\\2.png"])))
    assert set(source.entries()) == {"N/1.png", "P/a/2.png"}
    assert source.read("P/a/2.png") == CONTENT + b"P\\a\\2.png"


@pytest.mark.parametrize("damage", ["cut", "no tar"])
def test_damaged_tars(tmp_path: Path, damage: str):
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        tar.add(make_folder(tmp_path / "in", ["N/1.png"]), ".")
    data = (tmp_path / "in.tar").read_bytes()
    (tmp_path / "in.tar").write_bytes(data[: data.index(CONTENT) + 4] if damage == "cut" else b"x" * 2000)
    store = Tar(str(tmp_path / "in.tar"))
    if damage == "cut":
        with pytest.raises((ImageError, InputError), match=r"cut off|cannot open the tar"):
            store.read("N/1.png")
    else:
        with pytest.raises(InputError, match="cannot open the tar"):
            store.entries()


@pytest.mark.parametrize("member", ["../N/1", "N/../../1", "/N/1", "\\N\\1", "C:/N/1", "N\\..\\1"])
def test_zip_members_that_climb(tmp_path: Path, member: str):
    path = tmp_path / "in.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("N/ok", b"1")
        info = zipfile.ZipInfo("x")
        info.filename = member
        archive.writestr(info, b"2")
    with pytest.raises(InputError, match="climbs out of the archive") as caught:
        images_of(Zip(str(path)))
    assert member in str(caught.value)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zip_with_two_members_of_one_name(tmp_path: Path):
    source = Zip(str(make_zip(tmp_path / "in.zip", ["N/1", "P/2", "P/2"])))
    with pytest.raises(InputError, match="several members of one name: P/2"):
        images_of(source)


def test_encrypted_and_damaged_members(tmp_path: Path):
    path = tmp_path / "in.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("N/good", "N/encrypted", "P/crc", "P/stream"):
            archive.writestr(name, os.urandom(3000) + bytes(3000))
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        offsets = {info.filename: info.header_offset for info in archive.infolist()}
    data[offsets["N/encrypted"] + 6] |= 1  # bit 0 of the flags, here and in the directory
    data[data.rindex(b"N/encrypted") - 46 + 8] |= 1
    data[data.rindex(b"P/crc") - 46 + 16] ^= 1
    start = offsets["P/stream"] + 30 + len("P/stream")
    data[start : start + 2000] = b"\xff" * 2000
    path.write_bytes(data)
    source = Zip(str(path))
    assert len(images_of(source)) == 4
    assert len(source.read("N/good")) == 6000
    for name, message in (("N/encrypted", "is encrypted"), ("P/crc", "Bad CRC-32"), ("P/stream", "Error -3")):
        with pytest.raises(ImageError, match=f"cannot be read from the zip: .*{message}"):
            source.read(name)
    with pytest.raises(InputError, match=r"N/none in .*in\.zip: the zip has no such member\. Run the same command"):
        source.read("N/none")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("damage", ["stream", "cut", "method", "offset"])
def test_what_is_damaged_for_good_is_the_images_fault(tmp_path: Path, method: int, damage: str):
    path = tmp_path / "in.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in ("N/good", "P/bad"):
            archive.writestr(name, os.urandom(3000) + bytes(3000))
        offset = archive.getinfo("P/bad").header_offset
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"P/bad") - 46
    start = offset + 30 + len("P/bad")
    if damage == "stream":
        data[start + 12 : start + 2000] = b"\xff" * 1988
    elif damage == "cut":
        data[entry + 20 : entry + 24] = (900).to_bytes(4, "little")  # compressed bytes
    elif damage == "method":
        data[entry + 10] = 77
    else:
        data[entry + 42 : entry + 46] = (0xFFFFFFF0).to_bytes(4, "little")
    path.write_bytes(data)
    source = Zip(str(path))
    assert {image.path for image in images_of(source)} == {"N/good", "P/bad"}
    assert len(source.read("N/good")) == 6000
    with pytest.raises(ImageError, match="cannot be read from the zip"):
        source.read("P/bad")


def test_the_order_of_the_listing_is_that_of_no_one(tmp_path: Path):
    """The same images from files made in another order and a zip packed in another order."""
    paths = [f"{split}/{label}/{n}" for split in ("train", "test") for label in "NP" for n in range(20)]
    one, other = (make("folder", tmp_path / str(step), paths[::step]) for step in (1, -1))
    assert listed(one) == listed(other)
    zips = (make("zip", tmp_path / str(step), paths[::step]) for step in (1, -1))
    first, second = (sorted(images_of(source), key=lambda image: image.path) for source in zips)
    assert first == second


# TFDS

PIXELS = np.random.default_rng(1).integers(0, 256, (6, 9, 11, 1), dtype=np.uint8)
DEEP = np.random.default_rng(2).integers(0, 65536, (6, 9, 11, 1), dtype=np.uint16)


@pytest.fixture(scope="module")
def tfds_data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data directory with the data sets that `define_tfds` registers, prepared without network."""
    tfds = pytest.importorskip("tensorflow_datasets", reason="TFDS sources need pip install 'cxr-stream[train]'")
    data_dir = str(tmp_path_factory.mktemp("tfds"))
    features = tfds.features
    plain, two = features.Image(shape=(None, None, 1)), features.ClassLabel(num_classes=2)
    deep = features.Image(shape=(None, None, 1), dtype=np.uint16, encoding_format="png")
    floating = features.Image(shape=(None, None, 1), dtype=np.float32)
    images = {
        "TinyXray": (plain, PIXELS, features.ClassLabel(names=["NORMAL", "PNEUMONIA"])),
        "TinyDeepXray": (deep, DEEP, two),
        "TinyFloatXray": (floating, PIXELS.astype(np.float32), two),
        "TinyRegression": (plain, PIXELS, features.Scalar(np.int64)),
        "TinySlash": (plain, PIXELS, features.ClassLabel(names=["a/b", "c"])),
        "TinyUnlabelled": (plain, PIXELS, two),
        "TinyExtra": (plain, PIXELS, two),
    }

    def define(name: str, image, pixels, label) -> type:
        def info(self):
            return self.dataset_info_from_configs(
                features=features.FeaturesDict({"image": image, "label": label}), supervised_keys=("image", "label")
            )

        def generate(self, first: int, last: int):
            for index in range(first, last):
                unlabelled = name == "TinyUnlabelled" and index == 5
                yield index, {"image": pixels[index], "label": -1 if unlabelled else index % 2}

        def splits(self, manager):
            second = "extra" if name == "TinyExtra" else "validation"
            return {"train": self._generate_examples(0, 4), second: self._generate_examples(4, 6)}

        members = {"VERSION": tfds.core.Version("1.0.0"), "_info": info, "_generate_examples": generate}
        members |= {"_split_generators": splits, "__module__": __name__}
        return type(name, (tfds.core.GeneratorBasedBuilder,), members)

    for name, (image, pixels, label) in images.items():
        define(name, image, pixels, label)(data_dir=data_dir).download_and_prepare()
    return data_dir


loose = pytest.mark.filterwarnings("ignore")  # TensorFlow's and TFDS's own


@loose
@pytest.mark.parametrize(
    ("name", "pixels", "classes"),
    [("tiny_xray", PIXELS, ("NORMAL", "PNEUMONIA")), ("tiny_deep_xray", DEEP, ("0", "1"))],
)
def test_tfds_images_come_out_as_they_went_in(tmp_path: Path, tfds_data: str, name: str, pixels: np.ndarray, classes):
    archive = tmp_path / "x.zip"
    source = materialize_tfds(name, archive, tfds_data)
    images = images_of(source)
    found = {(image.split, *image.labels) for image in images}
    assert found == {(split, label) for split in ("train", "val") for label in classes}
    read = {decode(source.read(image.path)).pixels.tobytes(): image for image in images}
    assert len(read) == len(pixels)
    for index, expected in enumerate(pixels):
        image = read[expected.tobytes()]
        assert (image.split, image.labels) == ("train" if index < 4 else "val", (classes[index % 2],))
    written = archive.stat()
    materialize_tfds(name, archive, tfds_data)
    assert archive.stat().st_mtime_ns == written.st_mtime_ns  # a whole zip is kept
    materialize_tfds(name, tmp_path / "again.zip", tfds_data)
    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.zip", "x.zip"]


@loose
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_set_of_xrays", "cannot load the TFDS data set 'no_such_set_of_xrays': DatasetNotFoundError"),
        ("tiny_regression", "not one of image classification: .*label: Scalar"),
        ("tiny_float_xray", "expected an Image of uint8 or uint16"),
        ("tiny_slash", "the class name 'a/b', which no folder can have"),
        ("tiny_unlabelled", "has no label for image [01] of split 'validation'"),
        ("tiny_extra", "has the split 'extra'; expected only train"),
    ],
)
def test_refused_tfds_data_sets(tmp_path: Path, tfds_data: str, name: str, message: str):
    with pytest.raises(InputError, match=message):
        materialize_tfds(name, tmp_path / "x.zip", tfds_data)
    assert not (tmp_path / "x.zip").exists()
