"""How good a model is: bits per byte, distance from a reference, an assistant's jobs."""
