"""The demo's images: emoji of several vendors as an image-text memory and a labelled dataset."""
