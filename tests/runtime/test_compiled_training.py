"""Training with ``compile`` traces the network as one graph, and gives the same figures and checkpoints."""

import pytest
import runs
import torch
from torch._dynamo.utils import counters

from ssm_core.errors import ConfigError
from ssm_train.apis import train as run

# This part of torch.compile needs no code generation. A break in the graph is an error.
TRACED = {"compile": dict(backend="aot_eager", fullgraph=True)}
TWO_STAGES = ("model.backbone.depths=(1,1)", "model.backbone.dims=(8,16)")


def configure(model, work_dir, **keys):
    cfg = runs.configure(model[0], work_dir, *model[1:], "train_cfg.max_epochs=1")
    cfg.custom_hooks = [runs.EMA]
    cfg.merge_from_dict(keys)
    return cfg


@pytest.mark.parametrize("model", [runs.QUADMAMBA, runs.MAMBATREE], ids=["quadmamba", "mambatree"])
def test_a_compiled_run_is_the_eager_one(tmp_path, model):
    torch.compiler.reset()
    counters.clear()
    # Tracing takes long, and two stages are enough. Stochastic depth is off because torch draws other random numbers
    # within a graph.
    model = (*model, *TWO_STAGES, "model.backbone.drop_path_rate=0.0")
    run.train(configure(model, tmp_path / "eager"))
    assert not counters["stats"]["unique_graphs"]
    run.train(configure(model, tmp_path / "traced", **TRACED))
    assert counters["stats"]["unique_graphs"] == 2  # one for training and one for validation
    eager, traced = runs.last_state(tmp_path / "eager"), runs.last_state(tmp_path / "traced")
    for part in ("state_dict", "ema_state_dict"):
        assert eager[part].keys() == traced[part].keys()
        for name, value in eager[part].items():
            torch.testing.assert_close(traced[part][name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_a_bad_option_is_one_sentence(tmp_path):
    cfg = configure(runs.RESNET, tmp_path, **{"compile": dict(backend="unheard-of")})
    with pytest.raises(ConfigError, match="unheard-of"):
        run.train(cfg)
