"""The tables of README, docs/ and the tasks' READMEs, made from the JSON files in results/."""
