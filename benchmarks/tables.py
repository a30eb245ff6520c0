"""How long a table of a million rows takes to be read, joined and checked, and how much memory.

    python benchmarks/tables.py [--rows 1000000] [--json FILE]

Tables like those of MIMIC-CXR-JPG and NIH ChestX-ray14 are written, and read by `beam_jobs.sources.image_list` against
a listing of as many files, each in a process of its own: columns, joins by key, files by base name, labels, splits and
patients. CPU seconds count, as machines are shared; reading the same bytes with `csv` alone is given beside them.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tabulate import tabulate

from beam_jobs.sources.image_list import list_images
from beam_jobs.sources.reading import Reading
from beam_jobs.sources.stores import Entry, Folder

LABELS = ("No Finding", "Atelectasis", "Cardiomegaly|Effusion", "Mass|Nodule", "Hernia")
STATES = ("", "1.0", "0.0", "", "-1.0")
OBSERVATIONS = [
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
]  # fmt: skip


def write_nih(folder: Path, rows: int) -> dict[str, Entry]:
    """One table whose rows name files by base name; returns the listing of the files."""
    files = {}
    with open(folder / "Data_Entry_2017_v2020.csv", "w", encoding="utf-8") as file:
        file.write(
            "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
            "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]\n"
        )
        for row in range(rows):
            name, patient = f"{row // 4 + 1:08d}_{row % 4:03d}.png", row // 4 + 1
            label, sex, view = LABELS[row % 5], "MF"[row % 2], ("PA", "AP")[row % 2]
            file.write(f"{name},{label},{row % 4},{patient},{20 + row % 60},{sex},{view},2682,2749,0.143,0.143\n")
            files[f"images_{row * 12 // rows + 1:03d}/images/{name}"] = Entry(400_000, row)
    return files


def write_mimic(folder: Path, rows: int) -> dict[str, Entry]:
    """Three tables that are joined by key, with 14 columns of labels."""
    files = {}
    tables = {name: open(folder / f"mimic-cxr-2.0.0-{name}.csv", "w") for name in ("metadata", "chexpert", "split")}  # noqa: SIM115
    tables["metadata"].write("dicom_id,subject_id,study_id,ViewPosition,Rows,Columns\n")
    tables["chexpert"].write(f"subject_id,study_id,{','.join(OBSERVATIONS)}\n")
    tables["split"].write("dicom_id,study_id,subject_id,split\n")
    for row in range(rows):
        subject, study, image = 10_000_000 + row // 6, 50_000_000 + row // 2, f"{row:08x}-c4e7-11ee-9d2b-{row:012x}"
        tables["metadata"].write(f"{image},{subject},{study},{('PA', 'LATERAL')[row % 2]},2500,3056\n")
        tables["split"].write(f"{image},{study},{subject},{'train' if row % 50 else 'test'}\n")
        if row % 2 == 0:
            states = ",".join(STATES[(row // 2 * 7 + place * 3) % 5] for place in range(14))
            tables["chexpert"].write(f"{subject},{study},{states}\n")
        files[f"files/p{str(subject)[:2]}/p{subject}/s{study}/{image}.jpg"] = Entry(400_000, row)
    for file in tables.values():
        file.close()
    return files


WRITERS = {"nih": write_nih, "mimic": write_mimic}


class Listed(Folder):
    """A folder of which the listing is known."""

    def entries(self) -> dict[str, Entry]:
        tables = {path.name: Entry(path.stat().st_size, 1) for path in Path(self.root).glob("*.csv")}
        return {**FILES, **tables}


FILES: dict[str, Entry] = {}


def measure(name: str, rows: int) -> dict[str, Any]:
    """CPU seconds and peak memory of one layout, in this process."""
    with tempfile.TemporaryDirectory(prefix="cxr-bench-") as folder:
        FILES.update(WRITERS[name](Path(folder), rows))
        began = time.process_time()
        for path in Path(folder).glob("*.csv"):
            with open(path, encoding="utf-8", newline="") as file:
                for _ in csv.reader(file):
                    pass
        alone = time.process_time() - began
        began, wall = time.process_time(), time.perf_counter()
        found = list_images(Listed(folder), Reading())
        seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {
        "layout": name, "rows": rows, "images": len(found.images), "cpu_seconds": round(seconds, 1),
        "wall_seconds": round(time.perf_counter() - wall, 1), "csv_alone": round(alone, 1),
        "ratio": round(seconds / alone, 1), "peak_gigabytes": round(peak, 2),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of each table (1000000)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--only", choices=WRITERS, help="measure this layout in this process")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments.rows)))
        return 0
    found = []
    for name in WRITERS:
        command = [sys.executable, __file__, "--rows", str(arguments.rows), "--only", name]
        found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    print(tabulate(found, headers="keys"))
    if arguments.json:
        figures = {"machine": platform.machine(), "python": platform.python_version(), "results": found}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
