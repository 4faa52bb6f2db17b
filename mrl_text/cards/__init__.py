"""Model cards: what each size costs, what was measured, how to use it; and their metadata."""
