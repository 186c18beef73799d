"""How things run: errors, files, results, budgets, progress, images."""
