"""What was measured of kernels, on which processor: the records that choose how kernels are cut and what nodes cost."""
