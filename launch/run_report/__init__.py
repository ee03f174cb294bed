"""The report of runs: one HTML file that needs neither network nor script."""
