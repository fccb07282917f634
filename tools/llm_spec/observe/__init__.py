"""One forward pass, seen from outside."""
