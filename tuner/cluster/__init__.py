"""Running a search: the chief, its oracles, workers and their supervisor."""
