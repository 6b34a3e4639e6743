"""In-process alerts: which conditions hold, what fires, and how it is delivered."""
