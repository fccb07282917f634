"""All that looks: plain functions on plain values, for specs, notebooks and the command line."""
