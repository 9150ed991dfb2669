# Settings that all tasks share. Types of this project carry its scope, because detectors and segmentors look up names
# in the scopes of mmdet and mmseg. Useful switches:
#   --cfg-options visualizer.wandb=True       nothing leaves the computer if WANDB_MODE=offline is set
#   --cfg-options default_hooks.checkpoint.by_epoch=False default_hooks.checkpoint.interval=500
default_scope = "ssm_train"
default_hooks = dict(
    seed=dict(type="ssm_train.IterationSeedHook"),
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=False),
    non_finite=dict(type="ssm_train.NonFiniteHook"),
    curves=dict(type="ssm_train.CurvesHook", interval=50),
    class_report=dict(type="ssm_train.ClassReportHook"),
    checkpoint=dict(type="ssm_train.AtomicCheckpointHook", interval=1, max_keep_ckpts=3),
    timed_checkpoint=dict(type="ssm_train.TimedCheckpointHook", minutes=10),
)
# All scalars are named train/… or val/…, and their axis counts iterations.
log_processor = dict(log_with_hierarchy=True)
visualizer = dict(type="ssm_train.TrainingVisualizer", tensorboard=True, wandb=False)
env_cfg = dict(mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0), dist_cfg=dict(backend="nccl"))
process_timeout = 60  # seconds of silence after which a process of the run is given up
randomness = dict(seed=0)
log_level = "INFO"
