"""Stand-in: devices, loading and interruption."""

import torch

FOR_TESTS = ("loads", "interrupted", "emptied")
loads: list[tuple] = []
interrupted = False
emptied = 0


class InterruptProcessingException(BaseException):
    pass


def get_torch_device():
    return torch.device("cpu")


def unet_offload_device():
    return torch.device("cpu")


def intermediate_device():
    return torch.device("cpu")


def intermediate_dtype():
    return torch.float32


def load_models_gpu(models, memory_required=0, force_full_load=False):
    loads.append((models, memory_required, force_full_load))


def is_oom(e):
    return isinstance(e, torch.cuda.OutOfMemoryError)


def soft_empty_cache():
    global emptied
    emptied += 1


def throw_exception_if_processing_interrupted():
    if interrupted:
        raise InterruptProcessingException
