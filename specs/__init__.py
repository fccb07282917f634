"""The executable specification: one module an experiment of the plan."""
