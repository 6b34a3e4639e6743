"""Where the metrics go, and what the environment asks for."""
