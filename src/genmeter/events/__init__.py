"""Events: their shapes, how they are captured from callers, and how they are made clean."""
