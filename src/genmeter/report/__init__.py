"""The report: what a job used, from its journal, an export or its endpoint."""
