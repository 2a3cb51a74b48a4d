"""Leaderboards, methods, runs and models as HTML pages."""
