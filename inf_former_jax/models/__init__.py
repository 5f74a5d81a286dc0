"""The decoder and its parts, as Flax modules that know no mesh and no task.

config, presets    what a model is made of, and the models of the paper as such values
decoder, block     the whole model and one of its layers, in three schedules over segments
segment, output    what a layer is told of a segment, and what the decoder returns
all_segments       many segments at once;  open_segment: one that comes token by token
local_attention/   attention over the window and the segment
layer_memory/      what becomes of what leaves the short-term memory
attention, gate    long-term attention as a layer to plug in, and the gate of its writes
convert/           parameters of published models
"""
