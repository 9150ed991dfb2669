"""How a run goes: its config, runner, loops, hooks, optimizers, checkpoints and trackers. Nothing here knows a task."""
