"""The numbers that decide what a training does, and on what it runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from perception_rt.types import ConfigError

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


@dataclass(frozen=True, slots=True)
class Recipe:
    """What decides the weights; recorded in the bundle.

    Attributes:
        seed: of the data, of the first weights, of the order and of the augmentations.
        frames: frames to learn from; simulated ones are rounded up to whole drives.
        steps: batches.
        batch: frames a step.
        learning_rate: peak of the one-cycle schedule.
        weight_decay: of AdamW.
        average: decay a step of the moving average of the weights, which is what is validated and kept.
        rounds: times that the network is validated; `steps` is rounded up to a multiple.
        patience: rounds without a better score after which training stops; 0 for never.
    """

    seed: int
    frames: int
    steps: int
    batch: int
    learning_rate: float
    weight_decay: float
    average: float
    rounds: int = 1
    patience: int = 0


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a training runs on.

    Attributes:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        devices: processes, each with a device; they share a batch.
        nodes: machines.
        strategy: of PyTorch Lightning, e.g. ``ddp``.
        precision: a key of `PRECISIONS`, or ``auto``: bf16 where it is faster.
        workers: processes that read and augment; 0 for the training process itself.
    """

    device: str = "cpu"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    precision: str = "auto"
    workers: int = 0

    def plugin(self) -> str:
        """The precision as Lightning names it.

        Raises:
            ConfigError: fp16 on a CPU.
        """
        kind = torch.device(self.device).type
        if self.precision == "16" and kind == "cpu":
            raise ConfigError(f"--precision={self.precision}: a CPU has no fp16 training; take bf16 or 32")
        if self.precision == "auto":
            return PRECISIONS["bf16" if quick_bfloat16(torch.device(self.device)) else "32"]
        return PRECISIONS[self.precision]


def quick_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32.

    With a CPU's AMX a step takes a third of the time, with AVX512-BF16 half to three quarters, but without
    either far longer.
    """
    able = torch.cpu.get_capabilities()
    return device.type == "cuda" or bool(able.get("amx_bf16") or able.get("avx512_bf16"))
