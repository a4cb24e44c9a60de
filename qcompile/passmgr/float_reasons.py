"""Why nodes stay in float, where more than one place speaks of it."""

from __future__ import annotations

KEPT = "kept in float by request"
"""The user named them."""

SPOILS = "kept in float for the accuracy of an output"
"""A check of the accuracy, or a search, found that."""

BY_COST = "its conversions would cost more than integers save"
"""They could compute in integers."""
