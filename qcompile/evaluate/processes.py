"""Ends of processes that answer over a pipe."""

from __future__ import annotations

import subprocess

_PATIENCE = 10.0
"""Seconds that a process which is told to stop may take."""


def close(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> int:
    """Close the pipes of a process, which ends it, and return its exit status.

    Args:
        process: one that stops where its input ends; it is killed if it does not.
    """
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            try:
                stream.close()
            except BrokenPipeError:
                continue  # it stopped by itself, which its reader reports
    return end(process)


def end(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> int:
    """Wait for a process that is about to end, kill it where it takes long, and return its exit status."""
    try:
        return process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
