"""The built-in meter, and the recorder of events in the instruments of any meter."""
