"""What every run needs: config, runner, loops, hooks, optimizers, checkpoints, trackers. Nothing here knows a task."""
