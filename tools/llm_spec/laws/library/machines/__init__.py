"""What hypothesis plays with: each machine acts on an object of mlx-lm and on its definition.

Laws import these when they are asked, for hypothesis takes a second to import.
"""
