"""Modules and functions that two or more models share; they depend on nothing but torch."""
