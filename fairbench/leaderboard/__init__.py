"""Leaderboards: built from run folders, checked against a schema, ranked, compared, and traced back to their runs."""
