"""Rewrite rules, one file per family; each file holds one table RULES for `qcompile.passmgr.patterns.apply_rules`."""
