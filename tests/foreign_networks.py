"""Other projects' networks with random weights, and their files in the layout in which they are published.

spandrel imports torchvision: call ensure_torchvision first, which is not done here because the nodes' tests have a copy
of the library of their own.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

# The key under which each project's releases keep the weights.
WRAPPED = {"GFPGAN": "params_ema", "RestoreFormer": "params", "CodeFormer": "params_ema", "Compact": "params"}


def build(kind: str, full: bool = True) -> nn.Module:
    """A network as spandrel builds it; narrow where the file's shapes tell the width, or if not `full`."""
    pytest.importorskip("spandrel")
    torch.manual_seed(0)
    if kind == "GFPGAN":
        from spandrel.architectures.GFPGAN import GFPGAN

        network = GFPGAN(
            out_size=512,
            num_style_feat=512 if full else 32,
            channel_multiplier=2 if full else 1,
            decoder_load_path=None,
            fix_decoder=False,
            num_mlp=8 if full else 1,
            input_is_latent=True,
            different_w=True,
            narrow=1 if full else 0.125,
            sft_half=True,
        )
        for name, parameter in network.named_parameters():
            if parameter.shape == (1,) and ".style_conv" in name:  # the noise's strength, 0 in a fresh network
                nn.init.constant_(parameter, 0.1)
    elif kind == "RestoreFormer":
        from spandrel.architectures.RestoreFormer import RestoreFormer

        network = RestoreFormer(ch=32, n_embed=64, embed_dim=64, z_channels=64)
    elif kind == "CodeFormer":
        reason = "needs the package spandrel_extra_arches, which reads CodeFormer"
        extra = pytest.importorskip("spandrel_extra_arches.architectures.CodeFormer", reason=reason)
        network = extra.CodeFormer(n_layers=1, codebook_size=64)
        nn.init.normal_(network.position_emb)
    else:
        from spandrel.architectures.Compact import Compact

        network = Compact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=1, upscale=4, act_type="prelu")
    return network.eval()


def publish(kind: str, folder: Path, network: nn.Module | None = None) -> Path:
    """Write a network's file as its project does. Half precision, so that the disk is spared."""
    network = build(kind) if network is None else network
    state = {name: value.half() if value.is_floating_point() else value for name, value in network.state_dict().items()}
    path = folder / f"{kind}.pth"
    torch.save({WRAPPED[kind]: state}, path)
    return path
