"""Text from elsewhere, made safe to look at: stands at the bottom, for every room shows some."""
