"""The contract: what a record is, how shards are named and framed, what the manifest says, how it is read.

import tfrecords
data = tfrecords.open_dataset("data")
train = data.stream("train", image_size=512, batch_size=32, training=True)
"""

from tfrecords.dataset import XrayDataset, open_dataset

__all__ = ["XrayDataset", "open_dataset"]
