"""The source of chance that a caller gives: torch's own kind, on whatever device."""

import torch

from weightspace.errors import GenerationError


def chance(generator: torch.Generator | None) -> torch.Generator:
    """A source of chance on the CPU, where everything is drawn before it goes to the device of the weights.

    Args:
        generator: as given. None starts from seed 0; one on another device is drawn from once, for the seed of one on the CPU, so it moves on
            and the same state gives the same networks.

    Raises:
        GenerationError: it is no `torch.Generator`.
    """
    if generator is None:
        return torch.Generator().manual_seed(0)
    if not isinstance(generator, torch.Generator):
        raise GenerationError(f"generator={generator!r} is no source of chance; give torch.Generator().manual_seed(SEED)")
    if generator.device.type == "cpu":
        return generator
    return torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=generator, device=generator.device)))


__all__ = ["chance"]
