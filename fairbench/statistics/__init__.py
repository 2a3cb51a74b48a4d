"""The statistics of robustness: figures, intervals, tests on images and over seeds, ranks."""
