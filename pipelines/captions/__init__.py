"""Which classes the captions of a memory name: the folder `concepts/` and the job that fills it."""
