"""A pass for qcompile that zeroes small weights."""
