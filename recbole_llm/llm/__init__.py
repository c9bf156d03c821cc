"""Chat endpoints: limits, retries, prices, and a cache that forgets nothing. Knows no recommender."""
