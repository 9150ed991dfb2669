"""Learning from the answers of another network."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssm_core import weights
from ssm_core.errors import ConfigError
from ssm_train.registry import MODELS
from ssm_train.tasks.classification.fitting import logits_of


class Teacher:
    """A trained network whose answers a classifier learns (Hinton et al. 2015).

    It is no module, so that its weights are neither trained nor saved, and it stays in evaluation mode.

    Args:
        network: config of the network, such as ``dict(type="timm", name="resnet50", pretrained=True)``. It gets the
            same images as the classifier, mixed and normalised like them.
        file: a checkpoint of the network or of a classifier with it; None if the network comes with weights.
        classes: number of classes that it has to have.
        temperature: what both networks' outputs are divided by; more than 1 shows more of what is unlikely.

    Raises:
        ConfigError: the network has another number of classes, or no weights.
        CheckpointError: the file is missing, damaged or of another network.
    """

    def __init__(self, network: dict[str, Any], file: str | None, classes: int, temperature: float):
        if temperature <= 0:
            raise ConfigError(f"model.temperature has to be above 0, not {temperature}")
        if file is None and not network.get("pretrained"):
            raise ConfigError("the teacher has no weights: set model.teacher_weights=FILE, or model.teacher.pretrained")
        self.network = MODELS.build(network).eval().requires_grad_(False)
        self.temperature = temperature
        count = self.network.num_classes
        if count != classes:
            raise ConfigError(f"the teacher has {count} classes and the model {classes}: set model.teacher.num_classes")
        if file is not None:
            model = nn.ModuleDict({"backbone": self.network})
            state = weights.state_dict_of(weights.read_file(file), file)[0]
            weights.load_exactly(model, weights.add_backbone_prefix(state, model.state_dict()), file, "the teacher")

    def __deepcopy__(self, memo: dict[int, Any]) -> "Teacher":
        return self  # averaged models share it

    def loss(
        self,
        logits: Tensor,  # [B, classes]
        inputs: Tensor,  # [B, C, H, W]
        binary: bool,
    ) -> Tensor:
        """The mean divergence of the classifier's answers from those of the teacher, times the squared temperature.

        The square keeps the gradients as large at any temperature.

        Args:
            logits: outputs of the classifier.
            inputs: the images that it was given.
            binary: whether every class is a question of yes or no. The mean is then over the classes, too.

        Raises:
            ConfigError: see :func:`.logits_of`.
        """
        with torch.no_grad():
            self.network.to(inputs.device)
            answers = logits_of(self.network, inputs, "model.teacher").float() / self.temperature
        logits = logits / self.temperature
        if binary:
            target = answers.sigmoid()
            entropy = F.binary_cross_entropy_with_logits(answers, target)
            divergence = F.binary_cross_entropy_with_logits(logits, target) - entropy
        else:
            divergence = F.kl_div(logits.log_softmax(1), answers.log_softmax(1), reduction="batchmean", log_target=True)
        return divergence * self.temperature**2
