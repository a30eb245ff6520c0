"""Training on the data sets that `tfrecords` describes. Nothing here yet."""
