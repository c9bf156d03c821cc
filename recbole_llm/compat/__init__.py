"""Everything that knows RecBole's faults: mends, its configuration, faster subclasses, its reader and its own loop."""
