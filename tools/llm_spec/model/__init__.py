"""What a model is on paper and on disk."""
