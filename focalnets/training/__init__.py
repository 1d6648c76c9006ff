"""Training: recipes, and the functions that run and resume them."""
