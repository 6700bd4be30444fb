"""How the benchmarks measure time: their common options, the clock, the least of several calls."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import cv2
import torch

__all__ = ["add_options", "clock_for", "least_time"]


def add_options(parser: argparse.ArgumentParser, repeats: int) -> None:
    """`--repeats`, `--threads` and `--processor-time`."""
    parser.add_argument("--repeats", type=int, default=repeats, help="calls to take the least time of")
    parser.add_argument("--threads", type=int, default=0, help="threads for torch and OpenCV each; 0 leaves both alone")
    parser.add_argument("--processor-time", action="store_true", help="count the processor's time, in all threads")


def clock_for(options: argparse.Namespace) -> Callable[[], float]:
    """Sets the threads that the options ask for and gives the clock that they ask for, in seconds."""
    if options.threads:
        torch.set_num_threads(options.threads)
        cv2.setNumThreads(options.threads)
    return time.process_time if options.processor_time else time.perf_counter


def least_time(function: Callable[[], object], repeats: int, clock: Callable[[], float]) -> float:
    """ms of the fastest call; the first call does not count."""
    function()
    times = []
    for _ in range(repeats):
        start = clock()
        function()
        times.append(clock() - start)
    return min(times) * 1e3
