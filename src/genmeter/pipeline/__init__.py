"""The pipeline of events: the inbox, the drain, and the workers."""
