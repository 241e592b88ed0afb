"""What heads start from, computed once from the memory and its lists."""
