"""Derivatives written by hand, wrong and right, on which the checker is measured."""
