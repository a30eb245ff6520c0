"""Architecture search over the trainer. Nothing here yet."""
