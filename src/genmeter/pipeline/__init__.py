"""From the callers' threads to the recorders: the inbox, the drain, and the workers beside them."""
