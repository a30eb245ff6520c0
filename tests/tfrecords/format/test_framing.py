"""Framing against TensorFlow's own reader and writer, golden bytes, and damage at every place."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import blake3
import pytest
import tensorflow as tf

from cxr.errors import CorruptError, DatasetError
from tfrecords.format.framing import FramedRecord, RecordWriter, masked_crc32c, read_records

PAYLOADS = [b"abc", b"", b"\x00" * 5, "肺".encode() * 40, bytes(range(256)) * 3]

# written once by tf.io.TFRecordWriter (TensorFlow 2.21): the records b"abc" and b""
GOLDEN = bytes.fromhex("0300000000000000b099490e6162636e57f121000000000000000029039807d8ea82a2")


def write(path: Path, payloads: list[bytes]) -> RecordWriter:
    with open(path, "wb") as file:
        writer = RecordWriter(file)
        for payload in payloads:
            writer.write(payload)
    return writer


def damage(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x20
    path.write_bytes(bytes(content))


@pytest.fixture
def three(tmp_path) -> Path:
    """Records of 3, 10 and 4 bytes: frames begin at 0, 19 and 45, and the file has 65 bytes."""
    path = tmp_path / "shard"
    write(path, [b"abc", b"0123456789", b"wxyz"])
    assert path.stat().st_size == 65
    return path


def test_golden_bytes_are_written_and_read(tmp_path):
    file = io.BytesIO()
    writer = RecordWriter(file)
    writer.write(b"abc")
    writer.write(b"")
    assert file.getvalue() == GOLDEN
    (tmp_path / "golden").write_bytes(GOLDEN)
    assert list(read_records(tmp_path / "golden")) == [FramedRecord(0, 0, b"abc"), FramedRecord(1, 19, b"")]


def test_masked_crc_of_a_known_vector():
    # RFC 3720, B.4: the CRC32C of 32 zero bytes is 0x8a9136aa; masked by hand
    crc = 0x8A9136AA
    rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    assert masked_crc32c(bytes(32)) == (rotated + 0xA282EAD8) % 2**32
    assert masked_crc32c(bytes(32)) != zlib.crc32(bytes(32))


def test_tensorflow_reads_what_is_written(tmp_path):
    write(tmp_path / "shard", PAYLOADS)
    dataset = tf.data.TFRecordDataset(str(tmp_path / "shard"))
    assert list(dataset.as_numpy_iterator()) == PAYLOADS


def test_what_tensorflow_writes_is_read(tmp_path):
    path = tmp_path / "shard"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for payload in PAYLOADS:
            writer.write(payload)
    records = list(read_records(path))
    assert [record.data for record in records] == PAYLOADS
    assert [record.index for record in records] == list(range(len(PAYLOADS)))
    write(tmp_path / "ours", PAYLOADS)
    assert (tmp_path / "ours").read_bytes() == path.read_bytes()


def test_the_writer_keeps_count_size_and_checksum(tmp_path):
    path = tmp_path / "shard"
    writer = write(path, PAYLOADS)
    content = path.read_bytes()
    assert (writer.records, writer.bytes) == (len(PAYLOADS), len(content))
    assert writer.checksum == blake3.blake3(content).hexdigest()


def test_a_file_without_records_is_empty(tmp_path):
    writer = write(tmp_path / "shard", [])
    assert (writer.records, writer.bytes) == (0, 0)
    assert writer.checksum == blake3.blake3(b"").hexdigest()
    assert list(read_records(tmp_path / "shard")) == []


@pytest.mark.parametrize("record", [0, 1, 2])
@pytest.mark.parametrize(
    ("region", "place", "fault", "fatal"),
    [
        ("length", 0, "the length does not match its CRC", True),
        ("high byte of the length", 7, "the length does not match its CRC", True),
        ("CRC of the length", 8, "the length does not match its CRC", True),
        ("data", 12, "does not match its CRC", False),
        ("last byte of the data", -5, "does not match its CRC", False),
        ("CRC of the data", -4, "does not match its CRC", False),
        ("last byte", -1, "does not match its CRC", False),
    ],
)
def test_a_flipped_bit_is_named_and_the_rest_is_read_where_it_can_be(three, record, region, place, fault, fatal):
    begin, end = [(0, 19), (19, 45), (45, 65)][record]
    damage(three, (begin if place >= 0 else end) + place)
    whole = [b"abc", b"0123456789", b"wxyz"]

    read = []
    with pytest.raises(CorruptError, match=fault) as raised:
        read.extend(item.data for item in read_records(three))
    assert read == whole[:record]
    assert (raised.value.path, raised.value.record, raised.value.offset) == (str(three), record, begin)
    assert str(raised.value).startswith(f"{three}: record {record} at byte {begin}: ")

    faults: list[CorruptError] = []
    rest = [(item.index, item.data) for item in read_records(three, faults)]
    assert rest == [(i, data) for i, data in enumerate(whole) if (i < record if fatal else i != record)]
    assert [(error.record, error.offset, error.fault) for error in faults] == [(record, begin, raised.value.fault)]


def test_several_damaged_records_are_all_collected(three):
    damage(three, 12)
    damage(three, 57)
    faults: list[CorruptError] = []
    assert [item.index for item in read_records(three, faults)] == [1]
    assert [(error.record, error.offset) for error in faults] == [(0, 0), (2, 45)]


@pytest.mark.parametrize("cut", range(66))
def test_a_file_cut_at_any_byte_is_truncated_unless_cut_between_records(three, cut):
    three.write_bytes(three.read_bytes()[:cut])
    starts = [0, 19, 45, 65]
    complete = sum(start <= cut for start in starts) - 1
    faults: list[CorruptError] = []
    assert [item.index for item in read_records(three, faults)] == list(range(complete))
    if cut in starts:  # nothing in the file tells; the manifest's count does
        assert faults == []
        return
    assert [(error.path, error.record, error.offset) for error in faults] == [(str(three), complete, starts[complete])]
    inside = cut - starts[complete]
    assert ("header" if inside < 12 else "truncated: the record needs") in faults[0].fault
    with pytest.raises(CorruptError) as raised:
        list(read_records(three))
    assert str(raised.value) == str(faults[0])


def test_a_huge_length_with_the_right_crc_is_not_allocated(tmp_path):
    length = struct.pack("<Q", 2**62)
    (tmp_path / "shard").write_bytes(length + struct.pack("<I", masked_crc32c(length)) + bytes(20))
    with pytest.raises(CorruptError, match=f"the record needs {2**62 + 16} bytes, the file has 32 left"):
        list(read_records(tmp_path / "shard"))


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()], ids=["missing", "directory"])
@pytest.mark.parametrize("faults", [None, []], ids=["raising", "collecting"])
def test_a_file_that_cannot_be_opened_is_an_error_of_the_data_set(tmp_path, make, faults):
    make(tmp_path / "shard")
    with pytest.raises(DatasetError, match=r"cannot read the shard .*shard: ") as raised:
        list(read_records(tmp_path / "shard", faults))
    assert not isinstance(raised.value, CorruptError)
