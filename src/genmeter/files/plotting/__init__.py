"""How plots are drawn: the table, the data, the look, the forms.

Modules that draw import matplotlib at their top, and are themselves imported when a plot is asked
for.
"""
