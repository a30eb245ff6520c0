"""Where a job reads images from, and what their names say."""
