"""Settings: where they come from, which values they may have, and which of them tell two runs apart."""
