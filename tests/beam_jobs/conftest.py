"""Jobs in one process on few phantoms, and imitations of public data sets: their names, folders, tables and quirks."""

from __future__ import annotations

import ast
import csv
import dataclasses
import functools
import gzip
import io
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beam_jobs.job import preprocess
from beam_jobs.preprocess_config import PreprocessConfig
from beam_jobs.results.closing_report import JobSummary
from phantoms.phantom import PhantomConfig, write_phantoms

OBSERVATIONS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Said:
    """What the publisher's tables and folders say of one image; None where they say nothing."""

    labels: frozenset[str]
    split: str | None = None
    patient: str | None = None
    view: str = ""
    age: str = ""
    sex: str = ""
    unknown: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Imitation:
    """A data set on disk, and what is said of each image that belongs to it, by path."""

    root: Path
    images: dict[str, Said]


def pixels(seed: int, levels: int = 256) -> np.ndarray:
    """uint8 or uint16 [40 to 47, 40 to 50]: something like a chest, different for each seed."""
    rng = np.random.default_rng(seed)
    height, width = 40 + seed % 8, 40 + seed % 11
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    lungs = np.exp(-((np.abs(columns) - 0.45) ** 2) / 0.06 - rows**2 / 0.5)
    image = 0.75 - 0.55 * lungs + rng.normal(0, 0.03, (height, width))
    return np.round(np.clip(image, 0, 1) * (levels - 1)).astype(np.uint8 if levels <= 256 else np.uint16)


def png(seed: int, levels: int = 256, mode: str | None = None) -> bytes:
    """A PNG file."""
    return _file(Image.fromarray(pixels(seed, levels)), "PNG", mode)


def jpeg(seed: int) -> bytes:
    """A JPEG file."""
    return _file(Image.fromarray(pixels(seed)), "JPEG")


def dicom(seed: int) -> bytes:
    """A DICOM file of 8 bits, like those of RSNA."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    image = pixels(seed)
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = generate_uid(entropy_srcs=[str(seed)])
    file.Modality, file.PhotometricInterpretation, file.SamplesPerPixel = "CR", "MONOCHROME2", 1
    file.Rows, file.Columns = image.shape
    file.BitsAllocated = file.BitsStored = 8
    file.HighBit, file.PixelRepresentation = 7, 0
    file.PixelData = image.tobytes() + b"\0" * (image.size % 2)
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _file(image: Image.Image, kind: str, mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, kind)
    return buffer.getvalue()


def write(root: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Writes files below a folder."""
    for name, data in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """A CSV file, each cell quoted only where it has to be."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def pack(path: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    """Writes a zip."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files:
            archive.writestr(name, data)
    return path


def kermany(folder: Path) -> Imitation:
    """Kaggle's zip: the whole tree twice, and what a Mac leaves in zips."""
    images, files = {}, []
    for number in range(200):
        normal = number % 4 == 0
        split = ("train", "train", "test", "val")[number % 40 // 10] if number < 160 else "train"
        patient = f"IM-{number:04d}" if normal else f"person{number // 2}_{'virus' if number % 3 else 'bacteria'}"
        name = f"{patient}-0001.jpeg" if normal else f"{patient}_{number}.jpeg"
        label = "NORMAL" if normal else "PNEUMONIA"
        path = f"{split}/{label}/{name}"
        data = jpeg(number)
        files += [(f"chest_xray/{path}", data), (f"chest_xray/chest_xray/{path}", data)]
        files.append((f"chest_xray/__MACOSX/{split}/{label}/._{name}", b"junk"))
        images[f"chest_xray/{path}"] = Said(frozenset([label]), split, patient)
    files.append(("chest_xray/chest_xray/.DS_Store", b"junk"))
    return Imitation(pack(folder / "chest-xray-pneumonia.zip", files), images)


def nih(folder: Path) -> Imitation:
    """Numbered parts, a table with commas in the names of its columns, lists of splits, a few colour PNGs."""
    root, images, rows, files = folder / "nih", {}, [], []
    findings = ["No Finding", "Atelectasis", "Cardiomegaly|Effusion", "Mass|Nodule", "Hernia"]
    for number in range(210):
        patient, follow = number // 3 + 1, number % 3
        name = f"{patient:08d}_{follow:03d}.png"
        path = f"images_{number * 12 // 210 + 1:03d}/images/{name}"
        label, view, age, sex = findings[number % 5], ("PA", "AP")[number % 2], 20 + patient % 60, "MF"[patient % 2]
        rows.append((name, label, follow, patient, age, sex, view, 2682, 2749, 0.143, 0.143))
        files.append((path, png(number, mode="RGBA" if number % 50 == 0 else None)))
        split = "test" if patient % 5 == 0 else "train"
        images[path] = Said(frozenset(label.split("|")), split, str(patient), view, str(age), sex)
    header = [
        "Image Index",
        "Finding Labels",
        "Follow-up #",
        "Patient ID",
        "Patient Age",
        "Patient Gender",
        "View Position",
    ]
    text = ",".join(header) + ",OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]\n"
    text += "".join(",".join(map(str, row)) + "\n" for row in rows)
    lists = {"train_val_list.txt": "train", "test_list.txt": "test"}
    for name, split in lists.items():
        listed = [Path(path).name for path, said in images.items() if said.split == split]
        files.append((name, "\n".join(listed).encode()))
    boxes = table(
        ["Image Index", "Finding Label", "Bbox [x", "y", "w", "h]"], [(row[0], "Mass", 1, 2, 3, 4) for row in rows[:9]]
    )
    files += [
        ("Data_Entry_2017_v2020.csv", text.encode()),
        ("BBox_List_2017.csv", boxes),
        ("README_CHESTXRAY.pdf", b"%PDF"),
    ]
    write(root, files)
    return Imitation(root, images)


def _observe(number: int) -> tuple[list[str], frozenset[str], frozenset[str]]:
    """(cells of the 14 observations, those present, those uncertain)."""
    cells = [("", "1.0", "0.0", "", "-1.0")[(number * 7 + place * 3) % 5] for place in range(14)]
    named = dict(zip(OBSERVATIONS, cells, strict=True))
    return cells, *(frozenset(name for name, cell in named.items() if cell == state) for state in ("1.0", "-1.0"))


def chexpert(folder: Path) -> Imitation:
    """A table for each split, whose paths begin with the folder; 1.0, 0.0, -1.0 and blank."""
    root, images, files = folder / "CheXpert-v1.0-small", {}, []
    rows: dict[str, list[tuple]] = {"train": [], "valid": []}
    for number in range(220):
        split, patient = (
            "valid" if number >= 190 else "train",
            f"patient{number // 2 + (60000 if number >= 190 else 1):05d}",
        )
        lateral = number % 4 == 3
        path = f"{split}/{patient}/study{number % 2 + 1}/view1_{'lateral' if lateral else 'frontal'}.jpg"
        cells, present, uncertain = _observe(number)
        sex, age = ("Female", "Male")[number // 2 % 2], 18 + number // 2 % 70
        view = "Lateral" if lateral else "Frontal"
        rows[split].append((f"{root.name}/{path}", sex, age, view, "" if lateral else "AP", *cells))
        files.append((path, jpeg(number)))
        images[path] = Said(
            present, {"train": "train", "valid": "val"}[split], patient, view.upper(), str(age), sex[0], uncertain
        )
    header = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *OBSERVATIONS]
    write(root, [*files, *((f"{split}.csv", table(header, said)) for split, said in rows.items())])
    return Imitation(root, images)


def mimic(folder: Path) -> Imitation:
    """Labels by study, metadata and splits by image, all gzipped; one study without labels; a part of the files."""
    root, images, files = folder / "mimic", {}, []
    meta, labels, splits = [], [], []
    for number in range(240):
        subject, study = 10000032 + 7 * (number // 4), 50414267 + number // 2
        image = f"{number:08x}-c4e7-11ee-{subject % 65536:04x}-000000000000"
        split = ("train", "train", "validate", "test")[number // 4 % 4]
        view = ("PA", "LATERAL", "AP", "")[number % 4]
        meta.append((image, subject, study, view, 2500, 3056))
        splits.append((image, study, subject, split))
        cells, present, uncertain = _observe(number // 2)
        if number // 2 == 7:
            present, uncertain = frozenset(), frozenset(OBSERVATIONS)  # no row: nothing is known
        elif number % 2 == 0:
            labels.append((subject, study, *cells))
        if number >= 220:
            continue  # not downloaded
        path = f"files/p{str(subject)[:2]}/p{subject}/s{study}/{image}.jpg"
        files.append((path, jpeg(number)))
        images[path] = Said(
            present, {"validate": "val"}.get(split, split), str(subject), view, unknown=uncertain
        )  # fmt: skip
    tables = {
        "metadata": (["dicom_id", "subject_id", "study_id", "ViewPosition", "Rows", "Columns"], meta),
        "chexpert": (["subject_id", "study_id", *OBSERVATIONS], labels),
        "split": (["dicom_id", "study_id", "subject_id", "split"], splits),
    }
    for name, (header, rows) in tables.items():
        files.append((f"mimic-cxr-2.0.0-{name}.csv.gz", gzip.compress(table(header, rows), mtime=0)))
    write(root, files)
    return Imitation(root, images)


def padchest(folder: Path) -> Imitation:
    """Zips of 16-bit PNGs that use 12 or 14 of the bits; Python lists as labels, some empty."""
    root, images, rows = folder / "padchest", {}, []
    packed: dict[int, list[tuple[str, bytes]]] = {0: [], 1: [], 54: []}
    lists = [
        "['normal']",
        "['pneumonia', 'pleural effusion']",
        "['cardiomegaly']",
        "['']",
        "nan",
        "[]",
        "['normal', 'unchanged']",
    ]
    for number in range(210):
        archive, name = (0, 1, 54)[number % 3], f"2168408401{number:06d}_1v9zyx.png"
        patient, view, cell = f"3138{number // 2:04d}", ("PA", "L", "AP_horizontal")[number % 3], lists[number % 7]
        rows.append((number, name, archive, f"study{number}", patient, view, "F" if number % 4 < 2 else "M", cell))
        packed[archive].append((name, png(number, 4096 if number % 2 else 16384)))
        labels = frozenset(ast.literal_eval(cell)) - {""} if cell != "nan" else frozenset()
        if labels:
            sex = "F" if number % 4 < 2 else "M"
            images[f"{archive}.zip/{name}"] = Said(labels, None, patient, view.upper(), sex=sex)
    for archive, files in packed.items():
        pack(root / f"{archive}.zip", files)
    header = ["", "ImageID", "ImageDir", "StudyID", "PatientID", "Projection", "PatientSex_DICOM", "Labels"]
    name = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"
    write(root, [(name, gzip.compress(table(header, rows), mtime=0))])
    return Imitation(root, images)


def rsna(folder: Path) -> Imitation:
    """DICOMs named by a table with a row for each box, so several an image; test images without labels."""
    root, images, files, boxes, classes = folder / "rsna", {}, [], [], []
    for number in range(200):
        patient = f"{number:08x}-f0e1-4c1b-9a11-{number * 97:012x}"
        path, target = f"stage_2_train_images/{patient}.dcm", int(number % 3 == 0)
        files.append((path, dicom(number)))
        for box in range(1 + target * (number % 2)):
            boxes.append((patient, *((100.0 + box, 50.0, 20.0, 30.0) if target else ("", "", "", "")), target))
            classes.append(
                (patient, "Lung Opacity" if target else ("Normal", "No Lung Opacity / Not Normal")[number % 2])
            )
        images[path] = Said(frozenset(["Lung Opacity" if target else "No Lung Opacity"]))
    files += [(f"stage_2_test_images/{number:08x}-test.dcm", dicom(900 + number)) for number in range(4)]
    files.append(("stage_2_train_labels.csv", table(["patientId", "x", "y", "width", "height", "Target"], boxes)))
    files.append(("stage_2_detailed_class_info.csv", table(["patientId", "class"], classes)))
    write(root, files)
    return Imitation(root, images)


def covid(folder: Path) -> Imitation:
    """Masks beside the images, an Excel table for each class."""
    import openpyxl

    root, images, files = folder / "COVID-19_Radiography_Dataset", {}, []
    for label in ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia"):
        book = openpyxl.Workbook()
        book.active.append(["FILE NAME", "FORMAT", "SIZE", "URL"])
        for number in range(50):
            path = f"{label}/images/{label}-{number + 1}.png"
            files += [(path, png(len(label) * 50 + number)), (path.replace("/images/", "/masks/"), png(5, mode="RGB"))]
            book.active.append([f"{label}-{number + 1}", "PNG", "256*256", "https://sirm.org/category/covid-19/"])
            images[path] = Said(frozenset([label]))
        buffer = io.BytesIO()
        book.save(buffer)
        files.append((f"{label}.metadata.xlsx", buffer.getvalue()))
    files.append(("README.md.txt", b"COVID-19 CHEST X-RAY DATABASE"))
    write(root, files)
    return Imitation(root, images)


KNOWN: dict[str, Callable[[Path], Imitation]] = {
    "kermany": kermany, "nih-chestxray14": nih, "chexpert": chexpert, "mimic-cxr-jpg": mimic, "padchest": padchest,
    "rsna-pneumonia": rsna, "covid-19-radiography": covid,
}  # fmt: skip
"""How to imitate each known layout."""


@pytest.fixture(scope="session")
def imitation(tmp_path_factory) -> Callable[[str], Imitation]:
    """`imitation(name)`: a known data set, made once; not to be changed."""
    return functools.cache(lambda name: KNOWN[name](tmp_path_factory.mktemp(name.split("-")[0])))


IN_PROCESS = ("--runner=FnApiRunner", "--direct_num_workers=1", "--direct_running_mode=in_memory")


def run(source: Path, output: Path, **options) -> JobSummary:
    return preprocess(PreprocessConfig(str(source), str(output), **options), IN_PROCESS, quiet=True)


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    """A folder of about 50 phantoms in train, val and test, with two planted duplicates."""
    folder = tmp_path_factory.mktemp("phantoms") / "images"
    write_phantoms(PhantomConfig(to=str(folder), patients=32, seed=3, duplicates=2, scale=0.26))
    return folder
