"""Programs named ssh and scp that play the part of a machine behind ssh, on this one."""

from __future__ import annotations

from pathlib import Path

_SSH = """#!/bin/sh
echo "ssh $*" >> {log}
while [ $# -gt 1 ]; do
  case "$1" in
    -o) shift 2;; -p) shift 2;; -O) exit 0;; -*) echo "unknown option $1" >&2; exit 255;;
    *) break;;
  esac
done
case "$1" in
  *nowhere*) echo "ssh: connect to host nowhere port 22: No route to host" >&2; exit 255;;
  *full*) echo "mktemp: No space left on device" >&2; exit 1;;
esac
exec env -i PATH=/usr/bin:/bin sh -c "$2"
"""
_SCP = """#!/bin/sh
echo "scp $*" >> {log}
while [ $# -gt 2 ]; do
  case "$1" in -o|-P) shift 2;; *) shift;; esac
done
case "$2" in *broken*) echo "scp: connection lost" >&2; exit 1;; esac
exec cp -rp "$1" "${{2#*:}}"
"""


def install(folder: Path) -> Path:
    """Write the programs into a folder, which is to come first in PATH; returns the file that lists their calls."""
    log = folder / "calls.log"
    log.write_text("")
    for name, text in (("ssh", _SSH), ("scp", _SCP)):
        path = folder / name
        path.write_text(text.format(log=log))
        path.chmod(0o755)
    return log
