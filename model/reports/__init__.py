"""What finished runs reached, as tables, plots and pages."""
