"""Chat endpoints: limits, retries, prices and a permanent cache. Nothing here knows of recommenders."""
