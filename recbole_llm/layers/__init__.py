"""Modules and functions that two or more models share; they know nothing but torch."""
