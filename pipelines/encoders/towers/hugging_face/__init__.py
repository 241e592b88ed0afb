"""Folders of the Hugging Face Hub: their configs, weights, preprocessing and modules, as towers."""
