_base_ = "./default_runtime.py"

default_hooks = dict(
    logger=dict(interval=10),
    curves=dict(interval=10),
    checkpoint=dict(save_best="perplexity", rule="less", max_keep_ckpts=1),
    samples=dict(type="TextSamplesHook", count=4),
    # tree-ssm test also runs these tasks of lm-evaluation-harness. The paper's tasks are:
    #   --cfg-options default_hooks.harness.evaluate.tasks=piqa,arc_easy,sst2,winogrande,lambada_openai,race,openbookqa
    harness=dict(
        type="ExtraEvaluationHook",
        evaluate=dict(type="ssm_train.tasks.language.evaluation.Harness", tasks=[], batch_size=16, limit=None),
    ),
)
val_cfg = dict()
test_cfg = dict()
val_evaluator = dict(type="Perplexity")
test_evaluator = val_evaluator
