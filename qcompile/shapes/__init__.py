"""Open extents: which axis of which tensor follows which symbol, and what an operation needs to know of it."""
