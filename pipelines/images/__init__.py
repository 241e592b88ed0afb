"""From untrusted encoded images to pixels: bounded, decoded, resized for an encoder."""
