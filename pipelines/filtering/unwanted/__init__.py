"""Lists of images that must not be in a memory: the opt-out list and that of removed images; how URLs compare."""
