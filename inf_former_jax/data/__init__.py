"""Documents cut into segments with per-row resets: NumPy only, knows no model and no device."""
