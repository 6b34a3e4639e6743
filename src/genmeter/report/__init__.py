"""The usage of a job, from its journal, an export or its endpoint."""
