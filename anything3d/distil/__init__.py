"""What only `reconstruct` uses: score distillation, its two methods, its losses, its views and its checkpoint."""
