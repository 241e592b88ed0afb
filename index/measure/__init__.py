"""What an index finds and what it takes: recall, its curve, and estimates."""
