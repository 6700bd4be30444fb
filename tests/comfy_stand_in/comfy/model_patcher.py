"""Stand-in: what moves a network between memory and the compute device."""


class ModelPatcher:
    def __init__(self, model, load_device, offload_device):
        self.model, self.load_device, self.offload_device = model, load_device, offload_device


CoreModelPatcher = ModelPatcher
