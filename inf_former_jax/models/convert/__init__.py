"""Published parameters, turned into ours and back."""
