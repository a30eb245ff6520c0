"""The contract: what a record is, how shards are named and framed, what the manifest says, how it is read."""
