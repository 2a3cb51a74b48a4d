"""Model, data and attacks in; verdicts, flags and a report out."""
