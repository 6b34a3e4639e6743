"""The bounded history of a monitor, and what is read from it."""
