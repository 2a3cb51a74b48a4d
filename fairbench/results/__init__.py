"""The run folder: how a run is written, read back, verified, and mirrored to a store at a URL."""
