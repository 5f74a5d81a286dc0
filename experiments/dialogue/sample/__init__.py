"""Thirty conversations about ten works, places and machines, all made up for this project.

The dialogue experiment runs on them if no corpus is given. They are JSON lines, as
`experiments.dialogue.records` reads them. Documents have three sections and recur in all splits, as
in CMU-DoG.
"""
