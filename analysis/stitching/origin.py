"""Where the module of a stitched network comes from: how it is built again, as data."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from weightspace.analysis.budget import Budget
from weightspace.checkpoint import Checkpoint
from weightspace.errors import AnalysisError, one_line
from weightspace.modules import HELD, config_of, module_builders, module_for, module_of, module_of_config, population_recipe

REACH, FREE = 64, 10_000_000
"""Values that modules hold which a recipe tells of, for each that its file holds, and however few these are: files leave out parts that no route runs."""

CALL = 1000
"""What a call of torch counts as, in values, while a module is built for its size."""


@dataclass(frozen=True)
class Origin:
    """How the module of a network is built again, its weights aside.

    Attributes:
        recipe: of a population, or of stitching.
        config: what a `config.json` of transformers holds.
        code: a function of the user's own, as `module:function`; runs only where it is allowed by that name.
        given: the configuration that the function is called with, where it has a parameter without a default.
    """

    recipe: Mapping[str, Any] | None = None
    config: Mapping[str, Any] | None = None
    code: str | None = None
    given: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, checkpoint: Checkpoint, build: str | None = None) -> "Origin":
        """Where the module of a checkpoint comes from, as `module_for` finds it.

        Args:
            checkpoint: what `ws.open` returned.
            build: a function of the user's own, as `module:function`.

        Raises:
            TaskError: no way to build it is known.
        """
        recipe, config = population_recipe(checkpoint), config_of(checkpoint)
        if build is not None:
            return cls(code=build, given=config if config is not None else dict(checkpoint.recipe or checkpoint.metadata))
        if isinstance(recipe.get("name"), str) and recipe["name"] in module_builders:
            return cls(recipe=dict(recipe))
        if config is None:
            module_for(checkpoint, load=False)  # says what is missing
        return cls(config=config)

    @classmethod
    def told(cls, told: Mapping[str, Any]) -> "Origin":
        """Read what `to_json` wrote.

        Raises:
            AnalysisError: it is something else.
        """
        kinds = {"recipe": Mapping, "config": Mapping, "code": str, "given": Mapping}
        known = {key: value for key, value in told.items() if value is not None}
        if len(known.keys() - {"given"}) != 1 or any(not isinstance(value, kinds.get(key, ())) for key, value in known.items()):
            raise AnalysisError("a network of the patchwork does not say how its module is built; stitch it again")
        return cls(**known)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON has it."""
        return {key: value for key, value in vars(self).items() if value is not None}

    def module(self, *, allow: Collection[str] = (), held: int | None = None) -> nn.Module:
        """Build it, in eval mode, its weights as building draws them: the same every time.

        Args:
            allow: functions of the user's own that may run.
            held: how many values the file holds that this was read from; of a module that holds far more nothing is allocated.

        Raises:
            AnalysisError: it names code that is not allowed, or is out of proportion to its file.
            WeightSpaceError: it cannot be built.
        """
        if self.code is not None:
            if self.code not in allow:
                raise AnalysisError(
                    f"the patchwork names code, '{one_line(self.code, 120)}'; look at it, and allow it by that name (--allow) if it is yours"
                )
            return module_for(Checkpoint({}, {}, "memory", metadata=self.given or {}), self.code, load=False)
        if held is not None:
            self._expect_modest(REACH * held + FREE)
        return self._built(held)

    def _built(self, held: int | None) -> nn.Module:
        if self.config is not None:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(0)
                return module_of_config(self.config, "the patchwork's configuration").eval()
        return module_of({**(self.recipe or {}), **({} if held is None else {HELD: held})})

    def _expect_modest(self, most: int) -> None:
        """See that building makes no more than so many values: by shapes alone."""
        told = self.config if self.config is not None else [(self.recipe or {}).get(key) for key in ("hyperparameters", "data")]
        if _largest(told) > most:
            raise AnalysisError(f"a network of the patchwork has the size {_largest(told):,} in its recipe; do not load this file")
        if self.config is None and (self.recipe or {}).get("name") == "stitched":
            return  # looks at its own
        too_large = AnalysisError("a network of the patchwork is far larger than what its file holds; do not load this file")
        with Budget(most, too_large, call=CALL), torch.device("meta"):
            self._built(None)


def _largest(told: Any) -> int:
    """The largest whole number in JSON."""
    if isinstance(told, Mapping | list | tuple):
        return max(map(_largest, told.values() if isinstance(told, Mapping) else told), default=0)
    return abs(told) if isinstance(told, int) else 0


__all__ = ["FREE", "REACH", "Origin"]
