"""What one model makes of one text, or of two side by side: seen in one pass, shown on a terminal
and on a page."""
