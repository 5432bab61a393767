"""What a worker does for each kind of task: ``run(work)`` of the module of that name."""
