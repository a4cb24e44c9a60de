"""Why nodes stay in float, where more than one place speaks of it."""

from __future__ import annotations

KEPT = "kept in float by request"
"""The user, or a check of accuracy, named them."""

BY_COST = "its conversions would cost more than integers save"
"""They could compute in integers."""
