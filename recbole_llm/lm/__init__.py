"""Language models inside recommenders: loaded, or made small from scratch, and never downloaded unasked."""
