"""Nodes that the host tests put into their ComfyUI: slow networks, too little memory, what other packs have."""

import copy
import dataclasses
import gc
import time
from collections import namedtuple
from pathlib import Path

import folder_paths
import numpy as np
import torch
from aiohttp import web
from server import PromptServer
from torch import nn

PASS_SECONDS = 0.25


class Tight:
    """A restorer that runs out of memory with more than two faces at a time."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def restore(self, crops, *, batch, **options):
        if batch > 2:
            raise torch.cuda.OutOfMemoryError("forced by a test")
        return self.inner.restore(crops, batch=batch, **options)


def take_time():
    """Note a pass in output/passes.txt, and let it last."""
    with (Path(folder_paths.get_output_directory()) / "passes.txt").open("a") as passes:
        passes.write(".")
    time.sleep(PASS_SECONDS)


class Slow(nn.Module):
    """A network that notes each pass and takes its time."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.inner, name)

    def forward(self, *args, **options):
        take_time()
        return self.inner(*args, **options)


class TightRestorer:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"restorer": ("POSEFR_RESTORER",)}})
    RETURN_TYPES = ("POSEFR_RESTORER",)
    FUNCTION = "wrap"
    CATEGORY = "tests"

    def wrap(self, restorer):
        return (dataclasses.replace(restorer, model=Tight(restorer.model)),)


class SlowRestorer(TightRestorer):
    def wrap(self, restorer):
        model = dataclasses.replace(restorer.model, network=Slow(restorer.model.network))
        return (dataclasses.replace(restorer, model=model),)


class SlowDetector(TightRestorer):
    INPUT_TYPES = classmethod(lambda cls: {"required": {"restorer": ("POSEFR_DETECTOR",)}})
    RETURN_TYPES = ("POSEFR_DETECTOR",)

    def wrap(self, restorer):
        model = copy.copy(restorer.model)

        def look(*args, **options):  # once for each chunk; the network itself runs more often
            take_time()
            return restorer.model._look(*args, **options)

        model._look = look
        return (dataclasses.replace(restorer, model=model),)


class BareFaceRestoreModel:
    """What facerestore_cf hands on: a bare network that lies where its loader put it."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    RETURN_TYPES = ("FACERESTORE_MODEL",)
    FUNCTION = "load"
    CATEGORY = "tests"

    def load(self):
        from spandrel.architectures.GFPGAN import GFPGAN

        torch.manual_seed(0)
        network = GFPGAN(
            out_size=512,
            num_style_feat=32,
            channel_multiplier=1,
            decoder_load_path=None,
            fix_decoder=False,
            num_mlp=1,
            input_is_latent=True,
            different_w=True,
            narrow=0.125,
            sft_half=True,
        )
        return (network.eval(),)


SEG = namedtuple(
    "SEG",
    ["cropped_image", "cropped_mask", "confidence", "crop_region", "bbox", "label", "control_net_wrapper"],
    defaults=[None],
)


class MakeSegs:
    """SEGS of the Impact Pack's structure, with one square."""

    INPUT_TYPES = classmethod(
        lambda cls: {"required": {"image": ("IMAGE",), "x": ("INT",), "y": ("INT",), "side": ("INT",)}}
    )
    RETURN_TYPES = ("SEGS",)
    FUNCTION = "make"
    CATEGORY = "tests"

    def make(self, image, x, y, side):
        region = [x, y, x + side, y + side]
        mask = np.ones((side, side), np.float32)
        seg = SEG(None, mask, np.array([0.75], np.float32), region, np.array(region, np.float32), "face")
        return (((image.shape[1], image.shape[2]), [seg]),)


class PaintSegs:
    """Inverts what the masks of SEGS cover."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"image": ("IMAGE",), "segs": ("SEGS",)}})
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "paint"
    CATEGORY = "tests"

    def paint(self, image, segs):
        (height, width), found = segs
        assert (height, width) == tuple(image.shape[1:3])
        painted = image.clone()
        for seg in found:
            x0, y0, x1, y1 = seg.crop_region
            mask = torch.from_numpy(np.array(seg.cropped_mask))[None, :, :, None]
            theirs = torch.from_numpy(seg.cropped_image)
            painted[:, y0:y1, x0:x1] = theirs * (1 - mask) + (1 - theirs) * mask
        return (painted,)


class SlowImages:
    """Hands images on, as a sampler would that takes its time."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"images": ("IMAGE",)}})
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "hand_on"
    CATEGORY = "tests"

    def hand_on(self, images):
        take_time()
        return (1 - images,)


@PromptServer.instance.routes.get("/tests/networks")
async def networks(_):
    """How many of each network of ours are in memory."""
    gc.collect()
    names = [type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, nn.Module)]
    return web.json_response({name: names.count(name) for name in ("PoseFRNet", "RetinaFace", "GFPGANv1Clean")})


NODE_CLASS_MAPPINGS = {
    "TestTightRestorer": TightRestorer,
    "TestSlowRestorer": SlowRestorer,
    "TestSlowDetector": SlowDetector,
    "TestSlowImages": SlowImages,
    "TestBareFaceRestoreModel": BareFaceRestoreModel,
    "TestSegs": MakeSegs,
    "TestPaintSegs": PaintSegs,
}
