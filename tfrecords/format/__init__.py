"""What a data set is on disk: records, shards, indexes, the manifest and TFDS metadata. No TensorFlow."""
