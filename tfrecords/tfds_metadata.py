"""The files that make a rung's folder a TFDS data set: features.json, dataset_info.json, label names."""

from __future__ import annotations

import json
from pathlib import Path

from tfrecords.manifest import Manifest

TFDS_VERSION = "1.0.0"
_DESCRIPTION = "Chest X-rays written by cxr-stream, one tf.train.Example an image."


def write_tfds_metadata(folder: Path, manifest: Manifest, rung: str) -> None:
    """Writes what `tfds.builder_from_directory(folder)` reads.

    Args:
      folder: the rung's folder.
      manifest: of the data set.
      rung: name of the rung.
    """
    schema = manifest.schema(rung)
    features = schema.tfds_features(manifest.labels, manifest.bit_depth, manifest.channels)
    _write_json(folder / "features.json", features)
    (folder / "label.labels.txt").write_text("\n".join(manifest.labels) + "\n", encoding="utf-8")
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
    _write_json(folder / "dataset_info.json", info)


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
