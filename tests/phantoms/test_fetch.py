"""`cxr fetch` against a real HTTP server on this machine: whole, cut, without ranges, changed, and absent."""

from __future__ import annotations

import errno
import io
import socket
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from cxr.errors import InputError, OutputError
from phantoms import fetch

IMAGES = {
    f"{split}/{label}/{label}-{number}.jpeg": f"{split}{label}{number}".encode() * (number + 1) * 500
    for split, label, count in (("train", "NORMAL", 3), ("train", "PNEUMONIA", 5), ("test", "NORMAL", 2))
    for number in range(count)
}
JUNK = dict.fromkeys(
    ["__MACOSX/chest_xray/train/NORMAL/._NORMAL-0.jpeg", "__MACOSX/chest_xray/train/NORMAL/NORMAL-9.jpeg",
     "chest_xray/.DS_Store", "chest_xray/train/.DS_Store", "chest_xray/train/NORMAL/.DS_Store", "chest_xray/README"],
    b"junk",
)  # fmt: skip


def make_zip(images=IMAGES, **more: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("chest_xray/train/", b"")
        for name, data in {**{f"chest_xray/{n}": d for n, d in images.items()}, **JUNK, **more}.items():
            archive.writestr(name, data)
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Serves `body` at every path. `cuts` holds, for each request to come, the bytes after which the line drops."""

    daemon_threads = True

    def __init__(self, body: bytes):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.etag, self.ranges, self.status = body, '"one"', True, 200
        self.cuts: list[int] = []
        self.sent: list[int] = []
        self.url = f"http://127.0.0.1:{self.server_port}/file_downloaded"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        server, body, start = self.server, self.server.body, 0
        if server.status != 200:
            return self.send_error(server.status)
        wanted = self.headers.get("Range")
        if wanted and server.ranges and self.headers.get("If-Range", server.etag) == server.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - start))
        self.send_header("ETag", server.etag)
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else len(body)
        self.wfile.write(body[start : start + cut])
        server.sent.append(len(body[start : start + cut]))
        self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with Server(make_zip()) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file that an image reader could come upon, hidden folders left out."""
    found = (path for path in folder.rglob("*") if path.is_file())
    relative = {path.relative_to(folder).as_posix(): path for path in found}
    return {name: path.read_bytes() for name, path in relative.items() if not name.startswith(".download/")}


def run(folder: Path, *options: str) -> int:
    return fetch.main(["kermany", "--to", str(folder), *options])


@pytest.fixture
def cut(server, tmp_path) -> Path:
    """A folder whose download broke off after 50,000 bytes; the server now sends the rest."""
    server.cuts = [50_000]
    with pytest.raises(InputError, match=r"kept; the same command resumes there.*ChestXRay2017\.zip"):
        run(tmp_path, "--url", server.url)
    assert files_below(tmp_path) == {}
    return tmp_path


def test_fetch_then_again(server, tmp_path, capsys):
    target = tmp_path / "my data"
    assert run(target, "--url", server.url) == 0
    assert files_below(target) == IMAGES
    assert server.sent == [len(server.body)]
    assert not list((target / ".download").glob("*.part*"))
    assert not list(tmp_path.rglob("*.tmp"))
    out, err = capsys.readouterr()
    assert "10 images" in out and "CC BY 4.0" in out and "10.17632/rscbjbr9sj" in out
    assert f"cxr preprocess --input '{target}'" in out
    assert "warning: train/PNEUMONIA: expected 3,883 images, received 5" in err
    assert "warning: test/PNEUMONIA: expected 390 images, received 0" in err

    assert run(target, "--url", server.url) == 0
    assert "complete with 10 images; nothing to do" in capsys.readouterr().out
    assert len(server.sent) == 1


def test_a_lost_image_comes_back_from_the_kept_zip(server, tmp_path):
    run(tmp_path, "--url", server.url)
    (tmp_path / "train/NORMAL/NORMAL-1.jpeg").unlink()
    run(tmp_path, "--url", server.url)
    assert files_below(tmp_path) == IMAGES
    assert len(server.sent) == 1


def test_no_keep_zip(server, tmp_path):
    run(tmp_path, "--url", server.url, "--no-keep-zip")
    assert not list(tmp_path.rglob("*.zip"))
    run(tmp_path, "--url", server.url, "--no-keep-zip")
    assert len(server.sent) == 1


def test_full_counts_give_no_warning(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(fetch.COUNTS, False, {"train/NORMAL": 3, "train/PNEUMONIA": 5, "test/NORMAL": 2})
    run(tmp_path, "--url", server.url)
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("counts", fetch.COUNTS.values())
def test_both_layouts_have_5856_images(counts):
    assert sum(counts.values()) == 5856


def test_resume_after_a_cut(server, cut):
    run(cut, "--url", server.url)
    assert server.sent[1] <= len(server.body) - 50_000 + fetch.CHUNK < 0.8 * len(server.body)
    assert files_below(cut) == IMAGES


def test_a_cut_far_on_is_taken_up_in_the_same_run(server, tmp_path):
    server.body = make_zip({**IMAGES, "train/NORMAL/large.jpeg": bytes(3 << 20)})
    server.cuts = [2 << 20]
    run(tmp_path, "--url", server.url)
    assert server.sent == [2 << 20, len(server.body) - (2 << 20)]
    assert len(files_below(tmp_path)) == len(IMAGES) + 1


def test_a_server_without_ranges_starts_over(server, cut):
    server.ranges = False
    run(cut, "--url", server.url)
    assert server.sent == [50_000, len(server.body)]
    assert files_below(cut) == IMAGES


@pytest.mark.parametrize("honours_if_range", [True, False])
def test_a_changed_file_starts_over(server, cut, honours_if_range):
    changed = {name: data.swapcase() for name, data in IMAGES.items()}
    server.body = make_zip(changed)
    if honours_if_range:
        server.etag = '"two"'
    else:  # same tag, other length
        server.body = make_zip(changed, **{"chest_xray/more": b"more"})
    run(cut, "--url", server.url)
    assert server.sent[-1] == len(server.body)
    assert files_below(cut) == changed


def test_a_part_of_another_address_starts_over(server, cut):
    run(cut, "--url", server.url + "/new")
    assert server.sent == [50_000, len(server.body)]


def test_killed_between_the_last_byte_and_the_name(server, cut):
    (cut / ".download/ChestXRay2017.zip.part").write_bytes(server.body)
    run(cut, "--url", server.url)
    assert server.sent == [50_000]
    assert files_below(cut) == IMAGES


def test_killed_while_unpacking(server, tmp_path, monkeypatch):
    copy, done = fetch.shutil.copyfileobj, []

    def die_at_the_fifth(source, target):
        if len(done) == 4:
            target.write(b"half")
            raise KeyboardInterrupt
        done.append(target.name)
        copy(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(fetch.shutil, "copyfileobj", die_at_the_fifth)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, "--url", server.url)
    assert files_below(tmp_path) == {}
    written = []
    monkeypatch.setattr(fetch.shutil, "copyfileobj", lambda s, t: (written.append(t.name), copy(s, t)))
    run(tmp_path, "--url", server.url)
    assert len(written) == len(IMAGES) - 4
    assert files_below(tmp_path) == IMAGES


def test_a_zip_placed_by_hand(server, tmp_path):
    (tmp_path / ".download").mkdir()
    (tmp_path / ".download/ChestXRay2017.zip").write_bytes(server.body)
    run(tmp_path, "--url", server.url)
    assert files_below(tmp_path) == IMAGES
    assert server.sent == []


def test_a_zip_elsewhere_with_another_top_folder(tmp_path):
    moved = {f"Kermany/data/{name}": data for name, data in IMAGES.items()}
    elsewhere = tmp_path / "copy of it.zip"
    elsewhere.write_bytes(make_zip({}, **moved))
    run(tmp_path / "data", "--zip", str(elsewhere), "--no-keep-zip")
    assert files_below(tmp_path / "data") == IMAGES
    assert elsewhere.exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (make_zip()[:-500], "truncated or not a zip"),
        (b"<html>please log in</html>", "truncated or not a zip"),
        (make_zip({}), "holds no images"),
        (make_zip().replace(IMAGES["test/NORMAL/NORMAL-1.jpeg"][:40], b"x" * 40, 1), "is damaged"),
        (make_zip(**{"chest_xray/../../evil/train/NORMAL/a.jpeg": b"evil"}), "climbs out"),
        (make_zip(**{"../evil": b"evil"}), "climbs out"),
        (make_zip(**{"/train/NORMAL/evil": b"evil"}), "climbs out"),
        (make_zip(**{"other/train/NORMAL/NORMAL-1.jpeg": b"two of a name"}), "two different"),
    ],
)
def test_a_bad_zip_is_refused(tmp_path, body, message):
    archive = tmp_path / "bad.zip"
    archive.write_bytes(body)
    with pytest.raises(InputError, match=message):
        run(tmp_path / "data", "--zip", str(archive))
    assert files_below(tmp_path / "data") == {}
    assert {path.name for path in tmp_path.iterdir()} == {"bad.zip", "data"}

    archive.write_bytes(make_zip())  # and a good one is then taken
    run(tmp_path / "data", "--zip", str(archive))
    assert files_below(tmp_path / "data") == IMAGES


def test_another_zip_than_before_is_refused_where_its_images_differ(server, tmp_path):
    run(tmp_path, "--url", server.url)
    (tmp_path / "train/NORMAL/NORMAL-1.jpeg").unlink()
    (tmp_path / ".download/ChestXRay2017.zip").write_bytes(make_zip({n: d.swapcase() for n, d in IMAGES.items()}))
    with pytest.raises(OutputError, match="differs from the one in"):
        run(tmp_path, "--url", server.url)


def test_a_page_instead_of_the_zip_is_not_kept(server, tmp_path):
    good, server.body = server.body, b"<html>log in first</html>"
    with pytest.raises(InputError, match="not a whole zip"):
        run(tmp_path, "--url", server.url)
    server.body = good
    run(tmp_path, "--url", server.url)
    assert files_below(tmp_path) == IMAGES


def test_offline(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/x"
        with pytest.raises(InputError) as caught:
            run(tmp_path, "--url", url)
    message = str(caught.value)
    assert url in message and "Connection refused" in message
    assert f"save it as {tmp_path}/.download/ChestXRay2017.zip (or pass --zip FILE)" in message


@pytest.mark.parametrize("status", [403, 404, 503])
def test_http_errors(server, tmp_path, status):
    server.status = status
    with pytest.raises(InputError, match=f"cannot download.*{status}"):
        run(tmp_path, "--url", server.url)


@pytest.mark.parametrize(
    ("options", "message"), [(["--url", "not-an-address"], "cannot download"), (["--zip", "none.zip"], "no file")]
)
def test_a_place_where_nothing_is(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        run(tmp_path, *options)


def test_files_of_others_are_never_overwritten(server, tmp_path):
    (tmp_path / "train/NORMAL").mkdir(parents=True)
    (tmp_path / "train/NORMAL/NORMAL-0.jpeg").write_bytes(b"mine")
    with pytest.raises(OutputError, match="not made by this command"):
        run(tmp_path, "--url", server.url)
    (tmp_path / ".download").mkdir()
    with pytest.raises(OutputError, match="differs"):
        run(tmp_path, "--url", server.url)
    assert files_below(tmp_path) == {"train/NORMAL/NORMAL-0.jpeg": b"mine"}


def test_two_at_a_time(server, tmp_path):
    with fetch._locked(tmp_path / ".download"), pytest.raises(OutputError, match="another cxr fetch"):
        run(tmp_path, "--url", server.url)


def test_too_little_disk(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(OutputError, match=r"of free disk, 10 B are free"):
        run(tmp_path, "--url", server.url)
    assert server.sent in ([], [len(server.body)])
    assert files_below(tmp_path) == {}


def test_a_full_disk_is_an_output_error(server, tmp_path, monkeypatch):
    full = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    monkeypatch.setattr(fetch.shutil, "copyfileobj", full)
    with pytest.raises(OutputError, match="No space left"):
        run(tmp_path, "--url", server.url)


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write"):
        run(tmp_path / "file")
