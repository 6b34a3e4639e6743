"""The live view of jobs: what `genmeter top` and the demo share."""
