"""The files that make a rung's folder a TFDS data set: features.json, dataset_info.json, label names."""

from __future__ import annotations

import json
from pathlib import Path

from tfrecords.format.manifest import Manifest

TFDS_VERSION = "1.0.0"
_DESCRIPTION = "Chest X-rays written by cxr-stream, one tf.train.Example an image."


def write_tfds_metadata(folder: Path, manifest: Manifest, rung: str) -> None:
    """Writes what `tfds.builder_from_directory(folder)` reads.

    Args:
      folder: the rung's folder.
      manifest: of the data set.
      rung: name of the rung.
    """
    for name, content in tfds_files(manifest, rung).items():
        (folder / name).write_text(content, encoding="utf-8")


def tfds_files(manifest: Manifest, rung: str) -> dict[str, str]:
    """TFDS's files of one rung: content by name. `cxr verify` holds them to this byte for byte."""
    features = manifest.schema(rung).tfds_features(manifest.labels, manifest.bit_depth, manifest.channels)
    info = {
        "description": _DESCRIPTION,
        "disableShuffling": True,
        "fileFormat": "tfrecord",
        "moduleName": "tfrecords",
        "name": manifest.name,
        "version": TFDS_VERSION,
        "splits": [
            {
                "name": split,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "numBytes": str(sum(shard.bytes for shard in shards)),
                "shardLengths": [str(shard.records) for shard in shards],
            }
            for split, shards in manifest.rungs[rung].shards.items()
        ],
        "supervisedKeys": {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}},
    }
    return {
        "features.json": _to_json(features),
        "label.labels.txt": "\n".join(manifest.labels) + "\n",
        "dataset_info.json": _to_json(info),
    }


def _to_json(content: dict) -> str:
    return json.dumps(content, indent=2, sort_keys=True) + "\n"
