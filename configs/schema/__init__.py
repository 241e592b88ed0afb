"""The fields of a configuration, by section; `configs.base` has them all."""
