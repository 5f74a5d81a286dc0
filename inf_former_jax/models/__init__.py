"""Flax Linen models that read and write the memory; they know no mesh and no task."""
