"""`cxr fetch kermany`: downloads and unpacks a public set of chest X-rays.

Both steps can be killed at any moment, and the same command then resumes:

1. Download by HTTP range requests (RFC 9110, section 14) into `DIR/.download/ChestXRay2017.zip.part`, which is renamed
   once it is whole. Where the server has no ranges, or the file has changed there, it starts over.
2. Unpacking into `DIR/.download/unpacked`, each file checked against its CRC-32 and renamed when it is whole. A split
   moves into DIR when every file of the archive is there, so that no half split looks whole.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import requests

from cxr.command import Command, Given
from cxr.console import EXIT_OK, format_bytes, progress_bar, run_command
from cxr.errors import InputError, OutputError
from cxr.files import locked, write_atomically
from cxr.kinds import Choice, Flag, Parsed, Text
from cxr.options import Options, option, options

URL = "https://data.mendeley.com/public-files/datasets/rscbjbr9sj/files/f12eaf6d-6023-432f-acc9-80c9d7393433/file_downloaded"
ZIP_NAME = "ChestXRay2017.zip"
ABOUT_BYTES = 1_240_000_000  # of the zip, where the server does not say; the images take as much again
SPLITS = ("train", "val", "test")
TEST_COUNTS = {"test/NORMAL": 234, "test/PNEUMONIA": 390}
COUNTS = {  # by whether there is a split `val`: copies of the data set differ in 16 images set apart from train
    False: {"train/NORMAL": 1349, "train/PNEUMONIA": 3883, **TEST_COUNTS},
    True: {"train/NORMAL": 1341, "train/PNEUMONIA": 3875, "val/NORMAL": 8, "val/PNEUMONIA": 8, **TEST_COUNTS},
}
NOTICE = """\
Licence: CC BY 4.0. Please cite Kermany, Goldbaum, Cai et al., "Identifying Medical Diagnoses and Treatable Diseases by
Image-Based Deep Learning", Cell 172(5), 2018; data: Mendeley Data, doi 10.17632/rscbjbr9sj."""
TIMEOUT = (10, 60)  # seconds to connect, and between two reads
CHUNK = 1 << 14  # bytes a read; what a read has not finished is lost with the connection
MIN_PROGRESS = 1 << 20  # bytes that an attempt must bring for a lost connection to be resumed at once


@options
class FetchOptions(Options):
    """What `cxr fetch` downloads, and where to."""

    dataset: str = option(
        Choice(("kermany",)), "kermany: 5,856 chest X-rays of children, 1.2 GB, CC BY 4.0", positional=True
    )
    to: Path = option(Parsed(Path, "the path of a directory", "DIR"), "where train/ and test/ go")
    zip: Path | None = option(
        Parsed(Path, "the path of a file", "FILE"), f"use this copy of {ZIP_NAME}; download nothing", default=None
    )
    url: str = option(Text(metavar="URL"), "a mirror of the zip", default=URL, unset="Mendeley Data")
    keep_zip: bool = option(Flag(), "delete the downloaded zip after unpacking", default=True)


def run(given: Given) -> int:
    """Fetches the data set of a command line: then DIR holds `train/`, `test/` and, if the zip has it, `val/`.

    Raises:
      InputError: the download failed, or the zip is truncated, damaged or not this data set.
      OutputError: DIR holds something else, is in use by another fetch, full or read-only.
    """
    args = given.make(FetchOptions)
    work, archive = args.to / ".download", args.zip or args.to / ".download" / ZIP_NAME
    if _read_json(work / "complete.json").get("counts") == (counts := _count(args.to)) and counts:
        print(f"{args.to} is complete with {sum(counts.values()):,} images; nothing to do.")
        return EXIT_OK
    if counts and not work.exists():
        first = next(iter(counts))
        raise OutputError(f"{args.to} already holds {first}, not made by this command; choose another --to")
    with _locked(work):
        if args.zip is None and not archive.exists():
            _transfer(args.url, archive)
        _unpack(archive, args.to)
        counts = _count(args.to)
        write_atomically(work / "complete.json", json.dumps({"counts": counts}))
        for leftover in ("*.part", "*.part.json", *([] if args.keep_zip else [ZIP_NAME])):
            for path in work.glob(leftover):
                path.unlink()
    for name, expected in COUNTS[any(name.startswith("val/") for name in counts)].items():
        if (received := counts.get(name, 0)) != expected:
            print(f"warning: {name}: expected {expected:,} images, received {received:,}", file=sys.stderr)
    print(f"{args.to} holds {sum(counts.values()):,} images: {', '.join(f'{n} {c:,}' for n, c in counts.items())}")
    print(NOTICE)
    if (work / ZIP_NAME).exists():
        print(f"The zip is kept as {work / ZIP_NAME}; it can be deleted.")
    print(f"Next: cxr preprocess --input {shlex.quote(str(args.to))} --output OUT")
    return EXIT_OK


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _count(target: Path) -> dict[str, int]:
    """Number of files per split and class: `{"train/NORMAL": 1349, ...}`."""
    folders = (folder for split in SPLITS for folder in sorted((target / split).glob("[!.]*")) if folder.is_dir())
    return {f"{folder.parent.name}/{folder.name}": len(list(folder.glob("[!.]*"))) for folder in folders}


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Holds DIR/.download for this process; what the file system refuses in the meantime becomes an OutputError."""
    try:
        with locked(work / "lock", f"another cxr fetch is running in {work.parent}"):
            yield
    except OSError as error:
        raise OutputError(f"cannot write to {work.parent}: {error.strerror or error}") from error


def _need_space(folder: Path, needed: int) -> None:
    if (free := shutil.disk_usage(folder).free) < needed:
        raise OutputError(f"{folder} needs {format_bytes(needed)} of free disk, {format_bytes(free)} are free")


def _transfer(url: str, archive: Path) -> None:
    """Downloads `url` to `archive`, resuming what an earlier run has left in `archive`.part."""
    part = archive.with_name(archive.name + ".part")
    print(f"Downloading {url}")
    while True:
        before = _size(part)
        try:
            if _transfer_some(url, part):
                break
        except requests.RequestException as error:
            size = _size(part)
            if size - before >= MIN_PROGRESS:
                continue
            kept = f" {format_bytes(size)} are kept; the same command resumes there if the server can." if size else ""
            raise InputError(
                f"cannot download {url}: {_reason(error)}.{kept} To place the file by hand, save it as {archive} "
                "(or pass --zip FILE) and run the same command again"
            ) from None
    if not zipfile.is_zipfile(part):
        received = format_bytes(_size(part))
        part.unlink()
        raise InputError(f"{url} sent {received} that are not a whole zip file; try again, or pass --zip FILE")
    part.replace(archive)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: Exception) -> str:
    """What a person can use of an error of requests: `[Errno 111] Connection refused`."""
    inner = error.args[0] if error.args else error
    cause = getattr(inner, "reason", None) or inner
    first = cause.args[0] if isinstance(cause, Exception) and cause.args else cause
    text = " ".join(str(first if isinstance(first, str) else cause).split())
    return re.sub(r"^(<[^>]*>|\w+\([^)]*\)): ", "", text)[:300] or type(error).__name__


def _transfer_some(url: str, part: Path) -> bool:
    """One request: True when `part` is whole, False to ask again. A broken one raises requests.RequestException."""
    notes = part.with_name(part.name + ".json")  # what `part` is a part of
    known = _read_json(notes)
    have = _size(part) if known.get("url") == url else 0
    if have and have == known.get("length"):
        return True
    headers = {"Accept-Encoding": "identity"}
    if 0 < have < (known.get("length") or 0):
        headers["Range"] = f"bytes={have}-"
        if known["validator"]:
            headers["If-Range"] = known["validator"]
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        tag = response.headers.get("ETag", "")
        fresh: dict[str, Any] = {
            "url": url,
            "validator": tag if tag.startswith('"') else response.headers.get("Last-Modified"),
            "length": int(span[2] if span else response.headers.get("Content-Length", 0)) or None,
        }
        continues = response.status_code == 206 and span and int(span[1]) == have and fresh == known
        if "Range" in headers and not continues and response.status_code in (206, 416):
            part.unlink()  # of another version of the file
            return False
        response.raise_for_status()
        if not continues:
            part.unlink(missing_ok=True)
            write_atomically(notes, json.dumps(fresh))
            have = 0
        total = fresh["length"] or ABOUT_BYTES
        _need_space(part.parent, total - have + total)
        bar = progress_bar(fresh["length"], ZIP_NAME, initial=have, unit="B", unit_scale=True)
        with bar, part.open("ab") as file:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if fresh["length"] and _size(part) != fresh["length"]:
        raise requests.ConnectionError(f"broken off at {_size(part):,} of {fresh['length']:,} bytes")
    return True


def _relative(name: str) -> str | None:
    """`chest_xray/train/NORMAL/a.jpeg` as `train/NORMAL/a.jpeg`; None for what is no image of a split."""
    parts = PurePosixPath(name).parts
    start = next((i for i, part in enumerate(parts) if part in SPLITS), len(parts))
    junk = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return None if junk or len(parts) - start < 3 else "/".join(parts[start:])


def _list_members(archive: Path) -> dict[str, zipfile.ZipInfo]:
    """The images of the zip, by their path below DIR."""
    try:
        with zipfile.ZipFile(archive) as opened:
            infos = opened.infolist()
    except FileNotFoundError:
        raise InputError(f"no file {archive}") from None
    except zipfile.BadZipFile as error:
        raise InputError(
            f"{archive} ({format_bytes(_size(archive))}) is truncated or not a zip file: {error}. "
            "Delete it and run the same command again"
        ) from None
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        if info.filename.startswith("/") or ".." in re.split(r"[/\\]", info.filename):
            raise InputError(f"{archive} is not the published file: its member {info.filename!r} climbs out of DIR")
        relative = None if info.is_dir() else _relative(info.filename)
        if relative and members.setdefault(relative, info).CRC != info.CRC:
            raise InputError(f"{archive} is not the published file: it holds two different {relative}")
    if not members:
        raise InputError(f"{archive} holds no images below train/ or test/; expected {ZIP_NAME}")
    return members


def _is_whole(path: Path, info: zipfile.ZipInfo) -> bool:
    return path.exists() and _size(path) == info.file_size and zlib.crc32(path.read_bytes()) == info.CRC


def _unpack(archive: Path, target: Path) -> None:
    """Unpacks the images of `archive` into `target`; never overwrites a file there."""
    members, staging = _list_members(archive), target / ".download" / "unpacked"
    missing = {}
    for name, info in members.items():
        path = target / name
        if path.exists() and not _is_whole(path, info):
            raise OutputError(f"{path} differs from the one in {archive}; move it away, or choose another --to")
        if not path.exists() and not _is_whole(staging / name, info):
            missing[name] = info
    if missing:
        _need_space(target, sum(info.file_size for info in missing.values()))
        _extract(archive, staging, missing)
    for name in members:
        if (staging / name).exists():
            split = PurePosixPath(name).parts[0]
            moved = split if not (target / split).exists() else name  # a whole split at once, in general
            (target / moved).parent.mkdir(parents=True, exist_ok=True)
            (staging / moved).replace(target / moved)
    shutil.rmtree(staging, ignore_errors=True)


def _extract(archive: Path, staging: Path, missing: dict[str, zipfile.ZipInfo]) -> None:
    """Writes the members `missing` below `staging`; `zipfile` checks their CRC-32."""
    print(f"Unpacking {archive}")
    bar = progress_bar(len(missing), "unpacked", unit=" files")
    with bar, zipfile.ZipFile(archive) as opened:
        for name, info in missing.items():
            path = staging / name
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.tmp")
            try:
                with opened.open(info) as source, temporary.open("wb") as file:
                    shutil.copyfileobj(source, file)
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
                raise InputError(f"{archive} is damaged at {name!r}: {error}. Delete it and run again") from None
            temporary.replace(path)
            bar.update()


COMMAND = Command("fetch", "Downloads a public set of chest X-rays.", run, FetchOptions)
main = COMMAND.main

if __name__ == "__main__":
    raise SystemExit(run_command(main))
