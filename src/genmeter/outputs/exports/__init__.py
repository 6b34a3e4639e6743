"""What the history keeps as frames and as files, and files read back."""
