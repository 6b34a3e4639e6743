"""Events: their types, their capture from callers, and their sanitization."""
