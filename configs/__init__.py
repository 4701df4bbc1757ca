"""Recipes: one file per run, turned into dataclasses once."""
