"""What a run starts from: a fresh network, a checkpoint that may have to grow, a prior trained alone."""

from __future__ import annotations

import logging
from pathlib import Path

from ..errors import PoseFRError
from ..restoration.checkpoint import load_network
from ..restoration.network import PoseFRConfig, PoseFRNet
from .prior import load_prior, take_prior

__all__ = ["start_network"]


def start_network(
    config: PoseFRConfig, weights: Path | None = None, prior: Path | None = None, prior_from: int = 4
) -> PoseFRNet:
    """The network to train.

    Args:
        config: of a fresh network; a loaded one gets its size and its parts, where it has not.
        weights: checkpoint to start from; grown where it is smaller than the configuration.
        prior: checkpoint of stage 1, whose weights the network's prior takes up where they fit, in the scales of
            `prior_from` px and more.

    Raises:
        PoseFRError: a file that cannot be used, or a checkpoint that is larger than the configuration.
    """
    network = PoseFRNet(config) if weights is None else load_network(weights)[0]
    if network.config.size > config.size:
        raise PoseFRError(
            f"{weights} is for {network.config.size} px and cannot shrink to {config.size} px; choose a larger --size."
        )
    if network.config.size < config.size:
        try:
            network = network.grow(config.size)
        except PoseFRError:
            raise PoseFRError(
                f"{weights} is for {network.config.size} px and has no widths to grow to {config.size} px; a network "
                "of that --configuration starts without --weights."
            ) from None
    network = network.with_parts_of(config)
    if prior is not None:
        refused = take_prior(network, load_prior(prior)[0], prior_from)
        if refused:
            logging.getLogger(__name__).warning(
                "Not taken from %s, because their shapes differ: %s", prior.name, ", ".join(refused)
            )
    return network
