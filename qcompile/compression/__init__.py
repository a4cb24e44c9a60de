"""What the passes share that make a network smaller: choice of channels, fits of what remains, a plain account."""
