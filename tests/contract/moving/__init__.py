"""Moving a queue into another one: everything arrives, whatever the engines."""
