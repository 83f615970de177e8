"""The hyperparameters and the hardware of a training."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from perception_rt.types import ConfigError

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


@dataclass(frozen=True, slots=True)
class Recipe:
    """The hyperparameters, which determine the weights; recorded in the bundle.

    Attributes:
        seed: random seed of data, initial weights, order and augmentations.
        frames: number of training frames; simulated ones are rounded up to whole drives.
        steps: number of batches.
        batch: frames per step.
        learning_rate: peak of the one-cycle schedule.
        weight_decay: of AdamW.
        average: decay per step of the moving average of the weights, which is validated and saved.
        rounds: number of validations; `steps` is rounded up to a multiple.
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
    """The hardware of a training.

    Attributes:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        devices: number of processes, each with a device; they share a batch.
        nodes: number of machines.
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
        """Return the name of the precision in Lightning.

        Raises:
            ConfigError: fp16 is requested on a CPU.
        """
        kind = torch.device(self.device).type
        if self.precision == "16" and kind == "cpu":
            raise ConfigError(f"--precision={self.precision}: a CPU has no fp16 training; take bf16 or 32")
        if self.precision == "auto":
            return PRECISIONS["bf16" if quick_bfloat16(torch.device(self.device)) else "32"]
        return PRECISIONS[self.precision]


def quick_bfloat16(device: torch.device) -> bool:
    """Return whether bfloat16 is faster than float32.

    On a CPU with AMX a step takes a third of the time, with AVX512-BF16 half to three quarters; on others it
    takes much longer.
    """
    able = torch.cpu.get_capabilities()
    return device.type == "cuda" or bool(able.get("amx_bf16") or able.get("avx512_bf16"))
