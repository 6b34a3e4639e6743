"""The settings of a monitor, of its alerts and of its prices."""
