"""What the manifest promises of every record of a rung."""

from __future__ import annotations

import dataclasses

from tfrecords.format.manifest import RUNG_ENCODINGS, Manifest
from tfrecords.format.schema import Record, RecordSchema


@dataclasses.dataclass(frozen=True)
class Rules:
    """What the manifest says of every record of a rung."""

    schema: RecordSchema
    encodings: tuple[str, ...]
    bit_depth: int
    channels: int
    labels: int

    @classmethod
    def of(cls, manifest: Manifest, rung: str) -> Rules:
        """The rules of one rung."""
        encodings = RUNG_ENCODINGS[manifest.rungs[rung].encoding]
        return cls(manifest.schema(rung), encodings, manifest.bit_depth, manifest.channels, len(manifest.labels))

    def broken_by(self, record: Record) -> str | None:
        """The first rule that a record breaks, as a sentence, or None."""
        if any(not 0 <= label < self.labels for label in (*record.labels, *record.unknown)):
            return f"label {record.label}; expected 0 to {self.labels - 1}"
        if both := set(record.labels) & set(record.unknown):
            return f"label {min(both)} is both present and unknown"
        if record.encoding not in self.encodings:
            return f"encoding {record.encoding}; expected {' or '.join(self.encodings)}"
        if record.bit_depth != self.bit_depth:
            return f"{record.bit_depth} bits; expected {self.bit_depth}"
        if record.channels not in ((self.channels,) if self.channels else (1, 3)):
            return f"{record.channels} channels; expected {self.channels or '1 or 3'}"
        return None
