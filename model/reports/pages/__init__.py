"""The pages of the report: each is a module that gathers the facts, and the template of the same name."""
