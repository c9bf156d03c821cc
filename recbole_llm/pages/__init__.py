"""Static pages: one look, one set of charts, one policy of what a page may do."""
