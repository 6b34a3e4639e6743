"""The handle of one model call, with its usage, its streams and its decorator."""
