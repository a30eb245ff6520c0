"""A manifest as tables."""

from __future__ import annotations

from tabulate import tabulate

from cxr.console import format_bytes
from tfrecords.format.manifest import Manifest, Split


def manifest_tables(manifest: Manifest) -> str:
    """Splits, rungs and sizes of a data set, as text."""
    return "\n\n".join((_split_table(manifest), _rung_table(manifest), _sizes(manifest)))


def _split_table(manifest: Manifest) -> str:
    rows = [
        [
            name,
            split.images,
            split.patients,
            *(_label_cell(split, label) for label in manifest.labels),
        ]
        for name, split in manifest.splits.items()
    ]
    return tabulate(rows, ["split", "images", "patients", *manifest.labels], colalign=_right(3 + len(manifest.labels)))


def _label_cell(split: Split, label: str) -> str:
    """`12 (30.0%)` of the images of which it is known, and how many those of which it is not."""
    count, unknown = split.labels[label], split.unknown.get(label, 0)
    return f"{count} ({count / max(1, split.images - unknown):.1%})" + (f", {unknown} unknown" if unknown else "")


def _rung_table(manifest: Manifest) -> str:
    rows = []
    for name, rung in manifest.rungs.items():
        shards = [shard for shards in rung.shards.values() for shard in shards]
        size = sum(shard.bytes for shard in shards)
        records = sum(shard.records for shard in shards)
        side = f"short side {rung.size}" if rung.size else "native"
        rows.append([name, side, rung.encoding, len(shards), format_bytes(size), format_bytes(size / max(1, records))])
    return tabulate(rows, ["rung", "size", "encoding", "shards", "bytes", "an image"], colalign=_right(6))


def _sizes(manifest: Manifest) -> str:
    height, width = manifest.sizes["height"], manifest.sizes["width"]
    images = sum(split.images for split in manifest.splits.values())
    kind = {1: "grey", 3: "colour", 0: "grey and colour"}[manifest.channels]
    return (
        f"{width['min']} to {width['max']} pixels wide, {height['min']} to {height['max']} high, "
        f"mean {width['mean']:.0f} x {height['mean']:.0f}, {manifest.sizes['pixels'] / max(1, images) / 1e6:.2f} "
        f"megapixels an image\n{manifest.bit_depth} bit, {kind}; pixels of train: mean {manifest.pixels['mean']:.3f}, "
        f"standard deviation {manifest.pixels['std']:.3f} of full scale"
    )


def _right(columns: int) -> list[str]:
    return ["left", *["right"] * (columns - 1)]
