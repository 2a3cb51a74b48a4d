"""The statistics of robustness: intervals, tests on the same images and over seeds, tiers."""
