"""The alerts that a process tells by itself."""
