"""What a job will write: image headers, splits, shards and duplicates."""
