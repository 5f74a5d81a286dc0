"""The tables of the documentation, made from the JSON files in results/."""
