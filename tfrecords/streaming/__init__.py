"""From shards to batches: options, order, reading, caching and `tf.data`."""
