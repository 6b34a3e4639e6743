"""``genmeter demo``: a simulated job with a live view."""
