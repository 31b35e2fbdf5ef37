"""What only `reconstruct` uses: score distillation, its losses, its views and its saved state."""
