"""Lists the numbers of the authors' recipes, each with its source. Nothing here is taken from a config.

In the sources, ``quadmamba`` stands for github.com/VISION-SJTU/QuadMamba at 720ecc3, and ``mambatree`` for
github.com/EasonXiao-888/GrootVL at 0857f0a. Learning rates are those at the authors' batch size.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple


class Figure(NamedTuple):
    """A number of a recipe.

    Attributes:
        value: the value that a config must have.
        source: where the authors say it.
        departure: the words of the README that state an intended difference from the source. Empty if there is none.
    """

    value: Any
    source: str
    departure: str = ""


class Recipe(NamedTuple):
    """The configs and the figures of a recipe (see test_recipes.py).

    Attributes:
        configs: patterns of the paths of its configs, relative to configs/.
        figures: its figures, by the name of the quantity.
    """

    configs: tuple[str, ...]
    figures: dict[str, Figure]


def cosine(peak: float, floor: float, begin: float, end: float) -> Callable[[float], float]:
    """Return half a cosine that falls from the peak at ``begin`` to the floor at ``end``."""
    return lambda t: floor + (peak - floor) * (1 + math.cos(math.pi * (t - begin) / (end - begin))) / 2


def line(first: float, last: float, begin: float, end: float) -> Callable[[float], float]:
    """Return a straight line between two rates."""
    return lambda t: first + (last - first) * (t - begin) / (end - begin)


def quadmamba_rate(epoch: float) -> float:
    """Return the rate with warmup_prefix=True, where the cosine begins after the warm-up.

    The 20 epochs of warm-up start at 5e-7 × 1024 / 512. The cosine of the other 280 epochs ends at 5e-6 × 1024 / 512.
    """
    return line(1e-6, 1e-3, 0, 20)(epoch) if epoch < 20 else cosine(1e-3, 1e-5, 20, 300)(epoch)


def mambatree_rate(epoch: float) -> float:
    """Return a plain cosine over 300 epochs. The warm-up multiplies its first 20 epochs."""
    return cosine(1e-3, 0.0, 0, 300)(epoch) * min(1.0, line(1e-3, 1.0, 0, 20)(epoch))


def coco_rate(drops: tuple[int, ...], epoch_length: int) -> Callable[[float], float]:
    """Return a rate with 1,000 iterations of warm-up that falls to a tenth at each drop.

    Args:
        drops: the epochs at which the rate falls.
        epoch_length: iterations of an epoch in the test.
    """
    return lambda epoch: (
        min(1e-4, line(1e-7, 1e-4, 0, 1000)(epoch * epoch_length)) * 0.1 ** sum(epoch >= drop for drop in drops)
    )


def ade20k_rate(iteration: float) -> float:
    """Return a rate with 1,500 iterations of warm-up and a straight line to 0 after it."""
    return line(6e-11, 6e-5, 0, 1500)(iteration) if iteration < 1500 else line(6e-5, 0.0, 1500, 160_000)(iteration)


QUAD_CONFIG = "quadmamba classification/config.py"
TREE_CONFIG = "mambatree GrootV/classification/config.py"
# Iterations of an epoch in the tests. Stepping through epochs of the real length would take hours.
IMAGENET_EPOCH, COCO_EPOCH = 50, 500


def imagenet(source: str) -> dict[str, Figure]:
    """Return the figures on which the config.py of both families agree."""
    return {
        "epochs": Figure(300, f"{source} TRAIN.EPOCHS"),
        "batch": Figure(1024, f"{source}: rates are BASE_LR × batch / 512, and 1e-3 is that of 8 × 128"),
        "rate scales with the batch": Figure(1024, f"{source}: BASE_LR × batch / 512"),
        "optimizer": Figure("AdamW", f"{source} TRAIN.OPTIMIZER.NAME"),
        "peak rate": Figure(1e-3, f"{source} TRAIN.BASE_LR = 5e-4 × 1024 / 512"),
        "betas": Figure((0.9, 0.999), f"{source} TRAIN.OPTIMIZER.BETAS"),
        "weight decay": Figure(0.05, f"{source} TRAIN.WEIGHT_DECAY"),
        "largest gradient": Figure(5.0, f"{source} TRAIN.CLIP_GRAD"),
        "label smoothing": Figure(0.1, f"{source} MODEL.LABEL_SMOOTHING"),
        "mixup": Figure(0.8, f"{source} AUG.MIXUP"),
        "cutmix": Figure(1.0, f"{source} AUG.CUTMIX"),
        "share of mixed batches": Figure(1.0, f"{source} AUG.MIXUP_PROB"),
        "share of cutmix": Figure(0.5, f"{source} AUG.MIXUP_SWITCH_PROB"),
        "colour jitter": Figure(0.4, f"{source} AUG.COLOR_JITTER"),
        "augmentation": Figure("rand-m9-mstd0.5-inc1", f"{source} AUG.AUTO_AUGMENT"),
        "random erasing": Figure(0.25, f"{source} AUG.REPROB"),
        "interpolation": Figure("bicubic", f"{source} DATA.INTERPOLATION"),
        "image size": Figure((224, 224), f"{source} DATA.IMG_SIZE"),
    }


COCO = {
    "optimizer": Figure("AdamW", "quadmamba detection/configs/vssm; the MambaTree paper's setting for COCO"),
    "peak rate": Figure(1e-4, "quadmamba detection/configs/vssm; the MambaTree paper's setting for COCO"),
    "betas": Figure((0.9, 0.999), "quadmamba detection/configs/vssm"),
    "weight decay": Figure(0.05, "quadmamba detection/configs/vssm"),
    "batch": Figure(
        16, "quadmamba detection/configs/vssm: 8 GPUs with 2 images; the MambaTree paper's setting for COCO"
    ),
    "rate scales with the batch": Figure(16, "mmdet schedule_1x: off", "The rate follows the batch of all processes."),
    "decaying norms": Figure(0, "quadmamba detection/configs/vssm paramwise_cfg", "No norm decays."),
    "flip": Figure(0.5, "mmdet coco_instance.py"),
    "padding": Figure(32, "mmdet mask-rcnn_r50_fpn.py"),
    "test scale": Figure((1333, 800), "mmdet coco_instance.py"),
    "decoder": Figure("ssm_train.LoadImage", "mmdet coco_instance.py: OpenCV", "Pillow decodes the images"),
    "initial weights": Figure("ImageNet-1k", "quadmamba detection/configs/vssm pretrained"),
}
DINO = "mmdet dino-4scale_r50_8xb2-12e_coco.py"
ONE_TIMES, THREE_TIMES = "quadmamba detection/configs/swin 1x", "quadmamba detection/configs/vssm …_ms_3x"
BOXES = COCO | {
    "optimizer": Figure("AdamW", "quadmamba detection/configs/vssm, for Mask R-CNN", "mmdet trains them by SGD."),
    "epochs": Figure(12, ONE_TIMES),
    "rate by epoch": Figure(coco_rate((8, 11), COCO_EPOCH), f"{ONE_TIMES} param_scheduler"),
    "train scales": Figure([(1333, 800)], "mmdet coco_detection.py"),
}
SWIN_ADE20K = "quadmamba segmentation/configs/swin …_upernet_8xb2-160k_ade20k-512x512.py"
ADE20K = {
    "iterations": Figure(160_000, SWIN_ADE20K),
    "batch": Figure(16, SWIN_ADE20K),
    "optimizer": Figure("AdamW", SWIN_ADE20K),
    "peak rate": Figure(6e-5, SWIN_ADE20K),
    "betas": Figure((0.9, 0.999), SWIN_ADE20K),
    "weight decay": Figure(0.01, SWIN_ADE20K),
    "what does not decay": Figure(
        {"no_decay_keys": ["norm"]}, f"{SWIN_ADE20K} paramwise_cfg, as far as our networks have such names"
    ),
    "rate by iteration": Figure(ade20k_rate, f"{SWIN_ADE20K} param_scheduler"),
    "decode head's width": Figure(512, "mmseg upernet_swin.py"),
    "auxiliary head's width": Figure(256, "mmseg upernet_swin.py"),
    "auxiliary loss": Figure(0.4, "mmseg upernet_swin.py"),
    "test ratios": Figure([0.5, 0.75, 1.0, 1.25, 1.5, 1.75], "mmseg ade20k.py img_ratios"),
    "test flips": Figure(2, "mmseg ade20k.py tta_pipeline"),
    "initial weights": Figure("ImageNet-1k", "the MambaTree paper's setting for ADE20K"),
}
LORA = "mambatree GrootL/st_train.sh"

RECIPES = {
    "ImageNet-1k, QuadMamba": Recipe(
        ("quadmamba/quadmamba-*_8xb128_in1k.py", "quadmamba/ablations/*.py"),
        imagenet(QUAD_CONFIG)
        | {
            "rate by epoch": Figure(quadmamba_rate, f"{QUAD_CONFIG} WARMUP_EPOCHS, WARMUP_LR, MIN_LR, WARMUP_PREFIX"),
            "averaging": Figure(0.9999, "quadmamba classification/main.py --model_ema_decay"),
            "test resize": Figure(256, f"{QUAD_CONFIG} TEST.CROP: 256 / 224 × the size, then the centre"),
        },
    ),
    "ImageNet-1k, MambaTree": Recipe(
        ("mambatree/mambatree-*_8xb128_in1k.py", "mambatree/ablations/*.py"),
        imagenet(TREE_CONFIG)
        | {
            "rate by epoch": Figure(
                mambatree_rate,
                "mambatree GrootV/classification/lr_scheduler.py, with a floor of 1e-5 and a plain warm-up",
                "The warm-up multiplies the cosine.",
            ),
            "last rate": Figure(0.0, f"{TREE_CONFIG} TRAIN.MIN_LR = 5e-6 × 1024 / 512", "The cosine ends at 0"),
            "averaging": Figure(0.9999, "mambatree GrootV/classification/config/*.yaml TRAIN.EMA.DECAY"),
            "test resize": Figure(224, "mambatree GrootV/classification/dataset/build.py: the whole image at 224"),
        },
    ),
    "COCO 1x": Recipe(
        ("*/*mask-rcnn_*_8xb2-1x_coco.py",),
        COCO
        | {
            "epochs": Figure(12, ONE_TIMES),
            "rate by epoch": Figure(coco_rate((8, 11), COCO_EPOCH), f"{ONE_TIMES} param_scheduler"),
            "train scales": Figure([(1333, 800)], "mmdet coco_instance.py"),
        },
    ),
    "COCO 3x": Recipe(
        ("*/mask-rcnn_*_8xb2-3x-ms_coco.py",),
        COCO
        | {
            "epochs": Figure(36, THREE_TIMES),
            "rate by epoch": Figure(coco_rate((27, 33), COCO_EPOCH), f"{THREE_TIMES} param_scheduler"),
            "train scales": Figure(
                [(1333, side) for side in range(480, 801, 32)],
                f"{THREE_TIMES} train_pipeline, which crops in addition",
                "The 3x schedule resizes an image to one of eleven sizes.",
            ),
        },
    ),
    "COCO 1x, boxes alone": Recipe(
        ("*/faster-rcnn_*_8xb2-1x_coco.py", "*/retinanet_*_8xb2-1x_coco.py", "*/fcos_*_8xb2-1x_coco.py"), BOXES
    ),
    "COCO 1x at one shape": Recipe(
        ("*/retinanet_*_8xb2-1x_coco-640x640.py",),
        {quantity: figure for quantity, figure in BOXES.items() if quantity not in ("train scales", "test scale")}
        | {"shape of all images": Figure((640, 640), "ours, for compiled networks")},
    ),
    "COCO 12 epochs, DINO": Recipe(
        ("*/dino_*_8xb2-1x_coco.py",),
        COCO
        | {
            "epochs": Figure(12, f"{DINO} max_epochs"),
            "optimizer": Figure("AdamW", f"{DINO} optim_wrapper"),
            "peak rate": Figure(1e-4, f"{DINO} optim_wrapper"),
            "rate of the backbone": Figure(1e-5, f"{DINO} optim_wrapper.paramwise_cfg: 0.1 × 1e-4"),
            "weight decay": Figure(1e-4, f"{DINO} optim_wrapper"),
            "largest gradient": Figure(0.1, f"{DINO} optim_wrapper"),
            "batch": Figure(16, f"{DINO} auto_scale_lr"),
            "decaying norms": Figure(0, f"{DINO}: all norms decay", "No norm decays."),
            "rate by epoch": Figure(
                coco_rate((11,), COCO_EPOCH), f"{DINO} param_scheduler", "The first 1,000 iterations warm up"
            ),
            "padding": Figure(32, f"{DINO} pad_size_divisor: 1", "A batch is padded to sides that 32 divides."),
            "train scales": Figure([(1333, 800)], f"{DINO} train_pipeline: eleven sizes", "Its images have one size."),
        },
    ),
    "ADE20K": Recipe(
        ("*/upernet_*_8xb2-160k_ade20k-512x512.py",), ADE20K | {"train crop": Figure((512, 512), SWIN_ADE20K)}
    ),
    "Cityscapes": Recipe(
        ("*/upernet_*_8xb2-160k_cityscapes-512x1024.py",),
        ADE20K | {"train crop": Figure((512, 1024), "mmseg cityscapes.py crop_size; the papers have no such table")},
    ),
    "MambaTree-L": Recipe(
        ("mambatree_l/mamba-130m-lora_alpaca.py", "mambatree_l/mambatree-l-130m_alpaca.py"),
        {
            "base model": Figure("state-spaces/mamba-130m-hf", f"{LORA} model_path"),
            "epochs": Figure(1, f"{LORA} --num_train_epochs"),
            "optimizer": Figure("AdamW", "transformers' Trainer, its default"),
            "peak rate": Figure(2e-5, f"{LORA} --learning_rate"),
            "weight decay": Figure(0.0, f"{LORA} --weight_decay"),
            "batch": Figure(16, f"{LORA} --per_device_train_batch_size × --gradient_accumulation_steps"),
            "warm-up updates": Figure(20, f"{LORA} --warmup_steps, constant behind them"),
            "precision": Figure("bfloat16", f"{LORA} --bf16"),
            "tokens": Figure(2048, f"{LORA} --model_max_length"),
            "held-out rows": Figure(1 / 50, f"{LORA}: none", "One row in fifty is held out"),
            "LoRA": Figure(
                {"r": 8, "alpha": 16, "dropout": 0.0}, "mambatree GrootL/supervised-fine-tune.py LoraConfig"
            ),
        },
    ),
}

# Parameters in millions and the rate of stochastic depth, by arch. Figures that are inferred are marked.
ARCHS = {
    "quadmamba-lite": (5.470, 0.1),  # the paper's 5.4 M and 0.8 GFLOPs; inferred
    "quadmamba-tiny": (10.323, 0.1),  # the paper's 10 M and 2.1 GFLOPs; inferred
    "quadmamba-small": (31.252, 0.2),  # quadmamba classification/configs/quadmamba/tiny.yaml
    "quadmamba-base": (50.694, 0.3),  # quadmamba classification/configs/quadmamba/small.yaml
    "mambatree-tiny": (29.959, 0.1),  # mambatree GrootV/classification/config/grootv_t_1k_224.yaml
    "mambatree-small": (51.332, 0.3),  # …/grootv_s_1k_224.yaml
    "mambatree-base": (90.597, 0.5),  # …/grootv_b_1k_224.yaml
}
