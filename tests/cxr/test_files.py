"""Files appear whole or not at all, and a lock has one holder."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cxr.errors import BusyError, DatasetError, OutputError
from cxr.files import (
    is_temporary,
    locked,
    open_replacing,
    read_json,
    remove_temporary,
    replacing,
    temporary_name,
    write_atomically,
    write_json,
)


def test_a_file_replaces_another_when_it_is_whole(tmp_path):
    path = tmp_path / "one.txt"
    write_atomically(path, "old\n")
    with pytest.raises(RuntimeError), open_replacing(path) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old\n"
        raise RuntimeError
    assert path.read_text() == "old\n"
    write_atomically(path, "new\r\n")
    assert path.read_bytes() == b"new\r\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["one.txt"]


def test_a_folder_replaces_another(tmp_path):
    path = tmp_path / "made"
    for content in ("first", "second"):
        with replacing(path) as temporary:
            temporary.mkdir()
            (temporary / "inner.txt").write_text(content)
        assert (path / "inner.txt").read_text() == content
    assert [entry.name for entry in tmp_path.iterdir()] == ["made"]


def test_temporary_names_are_never_shared_and_are_found_again(tmp_path):
    names = {temporary_name(tmp_path / "best.weights.h5", "") for _ in range(100)}
    assert len(names) == 100
    assert all(is_temporary(name.name) and name.name.endswith(".weights.h5") for name in names)
    (tmp_path / "deep").mkdir()
    temporary_name(tmp_path / "deep" / "x").write_text("left by a killed process")
    (tmp_path / "deep" / "kept").write_text("")
    remove_temporary(tmp_path)
    assert [entry.name for entry in (tmp_path / "deep").iterdir()] == ["kept"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "there is no such file"), ("{", "cannot be read"), ("[1]", "expected a JSON object, received list")],
)
def test_what_is_no_json_object_is_named(tmp_path, content, message):
    path = tmp_path / "fields.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DatasetError, match=message):
        read_json(path)
    write_json(path, {"one": [1, 2]})
    assert read_json(path) == {"one": [1, 2]}


def test_missing_files_have_a_message_of_their_own(tmp_path):
    with pytest.raises(DatasetError, match="make one first"):
        read_json(tmp_path / "none.json", "make one first")


HOLD = "import sys; from pathlib import Path; from cxr.files import locked\n"
HOLD += "with locked(Path(sys.argv[1]), 'busy'): print('held', flush=True); sys.stdin.read()"


def test_a_lock_has_one_holder_and_ends_with_its_process(tmp_path):
    path = tmp_path / "folder" / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(BusyError, match="somebody else"), locked(path, "somebody else"):
        pass
    holder.kill()
    holder.communicate()
    with locked(path, "somebody else"):
        pass


APPEND = """
import sys
from pathlib import Path
from cxr.files import locked
path = Path(sys.argv[1])
for _ in range(50):
    with locked(path.with_name("lock"), "", wait=True):
        path.write_text(str(int(path.read_text()) + 1))
        path.with_name("lock").unlink()  # the next holder must not take this for the lock
"""


def test_waiting_holders_take_turns_even_where_the_file_is_removed(tmp_path):
    path = tmp_path / "count"
    path.write_text("0")
    workers = [subprocess.Popen([sys.executable, "-c", APPEND, str(path)]) for _ in range(2)]
    assert [worker.wait() for worker in workers] == [0, 0]
    assert path.read_text() == "100"


def test_where_nothing_can_be_written_it_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write to"), locked(tmp_path / "file" / "lock", "busy"):
        pass
