"""Training methods, one file a paper; found by the registry, never imported by the machinery."""
