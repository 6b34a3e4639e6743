"""Files that the history is written to: exports and plots."""
