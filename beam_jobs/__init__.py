"""From image files to a verified data set: sources, decoding, splitting, auditing, and the Beam job that writes."""
