"""DeepFilterNet: the third speech enhancer, three GRUs, in the published sizes."""

import sys
from types import ModuleType

import torch

from .case import Case, mean_square, without_cuda

without_cuda()
common = ModuleType("torchaudio.backend.common")
common.AudioMetaData = object  # a name in type hints, which torchaudio 2.11 does not have
sys.modules.setdefault(common.__name__, common)
from df.config import config  # noqa: E402
from df.deepfilternet3 import init_model  # noqa: E402

SIZES = {
    "CONV_LOOKAHEAD": 2, "CONV_CH": 64, "EMB_NUM_LAYERS": 3, "DF_NUM_LAYERS": 2,
    "DF_PATHWAY_KERNEL_SIZE_T": 5, "DF_GRU_SKIP": "groupedlinear", "LINEAR_GROUPS": 16,
    "ENC_LINEAR_GROUPS": 32,
}  # fmt: skip


def case() -> Case:
    """Return the model; inference takes 3 seconds of sound, training 4 times 3 seconds."""
    config.use_defaults(allow_reload=True)
    for name, value in SIZES.items():
        config.set(name, value, type(value), section="deepfilternet")
    model, shapes = init_model(), ((481, 2), (32,), (96, 2))
    one, four = ([torch.randn(B, 1, 300, *shape) for shape in shapes] for B in (1, 4))
    return Case(model, lambda: model(*one), lambda: mean_square(model(*four)))
