"""Training without a task: optimiser, mesh, one step, one loop. Of data it knows `Batch` only."""
