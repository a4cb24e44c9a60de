"""One means against a loss of accuracy: a pass to add, or other options for one that is there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qcompile.passmgr import PassRegistry
from qcompile.search.recipe import Recipe


@dataclass(frozen=True)
class Rung:
    """A step of the ladder.

    Args:
        title: what it does, in words.
        name: of the pass.
        options: of the pass.
        after: the pass that it is put behind where it does not take part yet, and without which it has no use; ""
            puts it first; None means that it must take part already.
        instead_of: passes that it makes needless.
        most_db: what it brings at most over the last of these, dB; where more is missing, it is not tried.
    """

    title: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    after: str | None = None
    instead_of: tuple[str, ...] = ()
    most_db: float = math.inf

    def applied(self, recipe: Recipe, registry: PassRegistry) -> Recipe:
        """Return a recipe with this means; the recipe itself where the means has no use in it."""
        recipe = recipe.without(self.instead_of)
        if recipe.has(self.name):
            return recipe.with_options(self.name, self.options)
        if self.after is None or (self.after and not recipe.has(self.after)):
            return recipe
        return recipe.inserted(registry.get(self.name)(**self.options), self.after)
