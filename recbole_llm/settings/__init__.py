"""Settings: where they come from, what they may be, and which of them tell two runs apart."""
