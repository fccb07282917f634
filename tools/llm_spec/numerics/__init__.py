"""Numbers: how far apart they may be, how they are drawn, timed and written."""
