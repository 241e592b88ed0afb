"""The report's page of test images with what attention kept of their neighbours, and what it filtered out."""
