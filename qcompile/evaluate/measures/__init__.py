"""The measures of `qcompile eval`, one file each; `qcompile.evaluate.measure` finds them by listing this package."""
