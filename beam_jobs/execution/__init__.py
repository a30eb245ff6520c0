"""How a job runs: the Beam pipeline, the shard writer, the work directory and progress."""
