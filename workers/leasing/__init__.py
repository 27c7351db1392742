"""Direct keys: lends an automation a key, counted against its limits as a call is."""
