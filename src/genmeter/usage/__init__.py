"""Reads tokens, models, finish reasons and costs from the responses of vendors' clients."""
