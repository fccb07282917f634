"""What was claimed, what was seen, and what became of it."""
