"""Leaderboards and gates as text for terminals."""
