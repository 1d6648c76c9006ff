"""Training: recipes, and the one function that carries one out."""
