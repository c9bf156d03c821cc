"""Records to tables, reference checks and the report page."""
