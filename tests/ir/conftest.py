from __future__ import annotations

import sys
from pathlib import Path

# Tests share a strategy from a module beside them; pytest's importlib mode puts nothing on the path.
sys.path.insert(0, str(Path(__file__).parent))
