"""How fast a model runs and what it needs, against what the hardware allows."""
