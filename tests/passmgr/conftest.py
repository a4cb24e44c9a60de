from __future__ import annotations

import sys
from pathlib import Path

# Tests share graphs and passes from a module beside them; pytest's importlib mode puts nothing on the path.
sys.path.insert(0, str(Path(__file__).parent))
