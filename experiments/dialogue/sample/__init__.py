"""Thirty conversations about ten works, places and machines, all made up for this project.

JSON lines as `experiments.dialogue.conversations` reads them: what the dialogue
experiment runs on where no corpus is at hand. Documents have three
sections and recur in all splits, as in CMU-DoG.
"""
