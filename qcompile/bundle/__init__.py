"""Turn a lowered program into a directory that runs on its own: library, header, loader, manifest.

The C interface is described in `csrc/model.h.in`, the manifest in `manifest.schema.json`.
"""

from qcompile.bundle.bundle import add_file, build_executable, check_output, read_manifest, write_bundle
from qcompile.bundle.manifest import Provenance

__all__ = [
    "Provenance",
    "add_file",
    "build_executable",
    "check_output",
    "read_manifest",
    "write_bundle",
]
