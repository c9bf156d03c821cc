"""Measurements of time, memory and statistics, many of them beside RecBole. They are not part of the tests."""
