"""genmeter."""
