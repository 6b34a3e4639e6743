"""The table of a report: as HTML for notebooks, and in an experiment tracker."""
