"""What a model's answer used, read from the objects of vendors' clients."""
