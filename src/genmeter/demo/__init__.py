"""``genmeter demo``: a made-up generation job, to see the monitor at work without a model or a key."""
