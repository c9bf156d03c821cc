"""Language models inside recommenders: found, loaded or made small, never downloaded unasked."""
