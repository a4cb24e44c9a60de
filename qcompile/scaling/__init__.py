"""Which channels of a network can be scaled, and by what, so that all of a tensor's channels suit its one scale."""
