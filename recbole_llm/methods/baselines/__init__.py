"""Models that the five methods are compared with and that RecBole lacks."""
